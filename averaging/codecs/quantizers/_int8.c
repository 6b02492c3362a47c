/* The loops of Uniform's frames with one byte an element, in one pass over memory each.

   PyTorch's path in uniform.py defines what they compute, and tests hold both to the same bits:
   no arithmetic here may be reordered or fused, so -ffp-contract=off and no -ffast-math. Python's
   lock is released while they run. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define SYMBOL_MAX 127
#define INFINITY_BITS 0x7f800000
/* Added to a small float32, it leaves the nearest whole number, ties to even, in its low bits. */
#define ROUNDER 12582912.0f

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EACH_MACHINE __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_MACHINE
#endif

/* The largest absolute value, as its bits: those of an infinity or of NaN are above all others. */
FOR_EACH_MACHINE
static int32_t largest_bits(const float *values, Py_ssize_t count)
{
    int32_t largest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

FOR_EACH_MACHINE
static void quantize(const float *restrict values, Py_ssize_t count, float inverse, int offset,
                     uint8_t *restrict symbols)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        float shifted = values[i] * inverse + ROUNDER;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        symbols[i] = (uint8_t)((bits & 0xff) + offset);
    }
}

FOR_EACH_MACHINE
static void quantize_and_scale(const float *restrict values, Py_ssize_t count, float inverse,
                               float scale, int offset, uint8_t *restrict symbols,
                               float *restrict decoded)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        float shifted = values[i] * inverse + ROUNDER;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        symbols[i] = (uint8_t)((bits & 0xff) + offset);
        decoded[i] = (shifted - ROUNDER) * scale;
    }
}

FOR_EACH_MACHINE
static int largest_symbol(const uint8_t *symbols, Py_ssize_t count)
{
    uint8_t largest = 0;
    for (Py_ssize_t i = 0; i < count; i++)
        largest = symbols[i] > largest ? symbols[i] : largest;
    return largest;
}

FOR_EACH_MACHINE
static void scale_back(const uint8_t *restrict symbols, Py_ssize_t count, float scale, int offset,
                       float *restrict values)
{
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = (float)((int32_t)symbols[i] - offset) * scale;
}

static Py_ssize_t smaller(Py_ssize_t a, Py_ssize_t b) { return a < b ? a : b; }

static Py_ssize_t blocks_of(Py_ssize_t count, Py_ssize_t block)
{
    return count / block + (count % block != 0);
}

/* Returns 0 where a value is not finite; the scales lie as a frame has them, not aligned. */
static int encode_blocks(const float *values, Py_ssize_t count, Py_ssize_t block, int largest,
                         float scale_max, float smallest, uint8_t *scales, uint8_t *symbols,
                         float *decoded)
{
    for (Py_ssize_t start = 0; start < count; start += block, scales += sizeof(float)) {
        Py_ssize_t size = smaller(block, count - start);
        int32_t bits = largest_bits(values + start, size);
        if (bits >= INFINITY_BITS)
            return 0;
        float top, scale, inverse;
        memcpy(&top, &bits, sizeof top);
        scale = top / (float)largest;
        scale = scale > scale_max ? scale_max : scale;
        scale = top < smallest ? 0.0f : scale;
        inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
        memcpy(scales, &scale, sizeof scale);
        if (decoded == NULL)
            quantize(values + start, size, inverse, largest, symbols + start);
        else
            quantize_and_scale(values + start, size, inverse, scale, largest, symbols + start,
                               decoded + start);
    }
    return 1;
}

/* Returns 0 where a symbol is too large. */
static int decode_blocks(const float *scales, const uint8_t *symbols, Py_ssize_t count,
                         Py_ssize_t block, int largest, float *values)
{
    for (Py_ssize_t start = 0; start < count; start += block, scales++) {
        Py_ssize_t size = smaller(block, count - start);
        if (largest_symbol(symbols + start, size) > 2 * largest)
            return 0;
        scale_back(symbols + start, size, *scales, largest, values + start);
    }
    return 1;
}

static PyObject *encode(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer values = {0}, frame = {0}, decoded = {0};
    PyObject *room, *answer = NULL;
    Py_ssize_t block;
    int largest;
    float scale_max, smallest;
    if (!PyArg_ParseTuple(args, "y*niffw*O", &values, &block, &largest, &scale_max, &smallest,
                          &frame, &room))
        return NULL;
    if (room != Py_None && PyObject_GetBuffer(room, &decoded, PyBUF_WRITABLE) < 0)
        goto done;
    Py_ssize_t count = values.len / (Py_ssize_t)sizeof(float);
    if (block < 1 || largest < 1 || largest > SYMBOL_MAX
        || values.len != count * (Py_ssize_t)sizeof(float)
        || frame.len != blocks_of(count, block) * (Py_ssize_t)sizeof(float) + count
        || (decoded.obj != NULL && decoded.len != values.len)) {
        PyErr_SetString(PyExc_ValueError, "buffers of sizes that do not belong together");
        goto done;
    }
    int finite;
    uint8_t *scales = frame.buf, *symbols = scales + (frame.len - count);
    Py_BEGIN_ALLOW_THREADS
    finite = encode_blocks(values.buf, count, block, largest, scale_max, smallest, scales, symbols,
                           decoded.buf);
    Py_END_ALLOW_THREADS
    answer = PyBool_FromLong(finite);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&frame);
    if (decoded.obj != NULL)
        PyBuffer_Release(&decoded);
    return answer;
}

static PyObject *decode(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer scales = {0}, symbols = {0}, values = {0};
    PyObject *answer = NULL;
    Py_ssize_t block;
    int largest;
    if (!PyArg_ParseTuple(args, "y*y*niw*", &scales, &symbols, &block, &largest, &values))
        return NULL;
    Py_ssize_t count = symbols.len;
    if (block < 1 || largest < 1 || largest > SYMBOL_MAX
        || values.len != count * (Py_ssize_t)sizeof(float)
        || scales.len != blocks_of(count, block) * (Py_ssize_t)sizeof(float)) {
        PyErr_SetString(PyExc_ValueError, "buffers of sizes that do not belong together");
        goto done;
    }
    int known;
    Py_BEGIN_ALLOW_THREADS
    known = decode_blocks(scales.buf, symbols.buf, count, block, largest, values.buf);
    Py_END_ALLOW_THREADS
    answer = PyBool_FromLong(known);
done:
    PyBuffer_Release(&scales);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&values);
    return answer;
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, "See _int8.pyi."},
    {"decode", decode, METH_VARARGS, "See _int8.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_int8", "Loops of Uniform's frames with one byte an element.", 0,
    methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__int8(void) { return PyModuleDef_Init(&definition); }
