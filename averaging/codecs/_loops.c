/* Loops of codecs in one pass over memory each, with Python's lock released while they run.

   PyTorch's paths define what they compute (quantizers/uniform.py, quantizers/geometric.py,
   sparsifiers/scan.py), and tests hold both to the same bits: no arithmetic here may be reordered
   or fused, so -ffp-contract=off and no -ffast-math. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SYMBOL_MAX 127
/* So many squares of symbols are below two to the 32. */
#define SUMMED_AT_ONCE 65536
#define INFINITY_BITS 0x7f800000
/* Added to a small float32, it leaves the nearest whole number, ties to even, in its low bits. */
#define ROUNDER 12582912.0f

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EACH_MACHINE __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_MACHINE
#endif

static inline Py_ssize_t smaller(Py_ssize_t a, Py_ssize_t b) { return a < b ? a : b; }

static inline int32_t least_of(int32_t a, int32_t b) { return a < b ? a : b; }

static inline int32_t bits_of(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The largest absolute value, as its bits: those of an infinity or of NaN are above all others. */
FOR_EACH_MACHINE
static int32_t largest_bits(const float *values, Py_ssize_t count)
{
    int32_t largest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t bits = bits_of(values[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* --- one byte an element, with a scale for each block ------------------------------------------- */

/* Returns the sum of the squares of the whole numbers, of at most SUMMED_AT_ONCE of them. */
FOR_EACH_MACHINE
static uint32_t quantize(const float *restrict values, Py_ssize_t count, float inverse, int offset,
                         uint8_t *restrict symbols)
{
    uint32_t squares = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        float shifted = values[i] * inverse + ROUNDER;
        int32_t whole = ((bits_of(shifted) & 0xff) ^ 0x80) - 0x80;
        symbols[i] = (uint8_t)(whole + offset);
        squares += (uint32_t)(whole * whole);
    }
    return squares;
}

/* The same, and leaves of the values what the frame does not say of them. */
FOR_EACH_MACHINE
static uint32_t quantize_and_keep(float *restrict values, Py_ssize_t count, float inverse,
                                  float scale, int offset, uint8_t *restrict symbols)
{
    uint32_t squares = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        float shifted = values[i] * inverse + ROUNDER;
        int32_t whole = ((bits_of(shifted) & 0xff) ^ 0x80) - 0x80;
        symbols[i] = (uint8_t)(whole + offset);
        squares += (uint32_t)(whole * whole);
        values[i] -= (shifted - ROUNDER) * scale;
    }
    return squares;
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

static Py_ssize_t blocks_of(Py_ssize_t count, Py_ssize_t block)
{
    return count / block + (count % block != 0);
}

/* Returns the sum of the squares of what the frame says, or -1 where a value is not finite; the
   scales lie as a frame has them, not aligned. */
static double encode_blocks(float *values, Py_ssize_t count, Py_ssize_t block, int largest,
                            float scale_max, float smallest, uint8_t *scales, uint8_t *symbols,
                            int keep)
{
    double squares = 0.0;
    for (Py_ssize_t start = 0; start < count; start += block, scales += sizeof(float)) {
        Py_ssize_t end = start + smaller(block, count - start);
        int32_t bits = largest_bits(values + start, end - start);
        if (bits >= INFINITY_BITS)
            return -1.0;
        float top, scale, inverse;
        memcpy(&top, &bits, sizeof top);
        scale = top / (float)largest;
        scale = scale > scale_max ? scale_max : scale;
        scale = top < smallest ? 0.0f : scale;
        inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
        memcpy(scales, &scale, sizeof scale);
        for (Py_ssize_t from = start; from < end; from += SUMMED_AT_ONCE) {
            Py_ssize_t size = smaller(SUMMED_AT_ONCE, end - from);
            float *some = values + from;
            uint8_t *place = symbols + from;
            uint32_t wholes = keep ? quantize_and_keep(some, size, inverse, scale, largest, place)
                                   : quantize(some, size, inverse, largest, place);
            squares += (double)wholes * scale * scale;
        }
    }
    return squares;
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

static PyObject *encode_int8(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer values = {0}, frame = {0};
    PyObject *given, *answer = NULL;
    Py_ssize_t block;
    int largest, keep;
    float scale_max, smallest;
    if (!PyArg_ParseTuple(args, "Oniffw*p", &given, &block, &largest, &scale_max, &smallest, &frame,
                          &keep))
        return NULL;
    if (PyObject_GetBuffer(given, &values, keep ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        goto done;
    Py_ssize_t count = values.len / (Py_ssize_t)sizeof(float);
    if (block < 1 || largest < 1 || largest > SYMBOL_MAX
        || values.len != count * (Py_ssize_t)sizeof(float)
        || frame.len != blocks_of(count, block) * (Py_ssize_t)sizeof(float) + count) {
        PyErr_SetString(PyExc_ValueError, "buffers of sizes that do not belong together");
        goto done;
    }
    double squares;
    uint8_t *scales = frame.buf, *symbols = scales + (frame.len - count);
    Py_BEGIN_ALLOW_THREADS
    squares = encode_blocks(values.buf, count, block, largest, scale_max, smallest, scales, symbols,
                            keep);
    Py_END_ALLOW_THREADS
    answer = squares < 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(squares);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&frame);
    return answer;
}

static PyObject *decode_int8(PyObject *module, PyObject *args)
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

/* --- the largest of each block ----------------------------------------------------------------- */

#define RADIX_BITS 11
#define RADIX (1 << RADIX_BITS)
#define SKIPPED_AT_ONCE 32

/* Magnitudes as whole numbers, which are in the same order; and where they stand in their block. */
typedef struct {
    uint32_t *keys;
    int32_t *places;
    Py_ssize_t count;
} Contenders;

/* Those of at least a limit, which is above zero; of most, 32 are passed over at once. */
static void contend(const float *values, Py_ssize_t count, uint32_t limit, Contenders *found)
{
    found->count = 0;
    for (Py_ssize_t start = 0; start < count; start += SKIPPED_AT_ONCE) {
        Py_ssize_t stop = smaller(start + SKIPPED_AT_ONCE, count);
        if (largest_bits(values + start, stop - start) < (int32_t)limit)
            continue;
        for (Py_ssize_t i = start; i < stop; i++) {
            uint32_t key = (uint32_t)bits_of(values[i]) & 0x7fffffff;
            found->keys[found->count] = key;
            found->places[found->count] = (int32_t)i;
            found->count += key >= limit;
        }
    }
}

/* The key of this rank, from 1; *equal is how many of the ranks up to it have this very key. */
static uint32_t key_of_rank(const Contenders *all, Py_ssize_t rank, Py_ssize_t *equal)
{
    static const int shifts[] = {20, 9, 0};
    uint32_t prefix = 0, mask = 0, counts[RADIX];
    for (int level = 0; level < 3; level++) {
        int shift = shifts[level];
        memset(counts, 0, sizeof counts);
        for (Py_ssize_t i = 0; i < all->count; i++)
            if ((all->keys[i] & mask) == prefix)
                counts[(all->keys[i] >> shift) & (RADIX - 1)]++;
        uint32_t bin = RADIX - 1;
        for (; counts[bin] < rank; bin--)
            rank -= counts[bin];
        prefix |= bin << shift;
        mask |= (uint32_t)(RADIX - 1) << shift;
    }
    *equal = rank;
    return prefix;
}

/* Writes positions, rising, and returns how many: fewer than kept where there are zeros.

   What was the limit in the block before tells which are worth ranking; where it misleads, all are
   that are not zero. */
static Py_ssize_t largest_of_block(const float *values, Py_ssize_t count, Py_ssize_t kept,
                                   uint32_t *guess, Contenders *left, int64_t first,
                                   int64_t *positions)
{
    contend(values, count, *guess, left);
    if (left->count < kept && *guess > 1)
        contend(values, count, 1, left);
    uint32_t limit = 1;
    Py_ssize_t equal = left->count;
    if (left->count > kept)
        limit = key_of_rank(left, kept, &equal);
    /* A quarter of the way down to the next power of two. */
    *guess = limit > (1 << 21) + 1 ? limit - (1 << 21) : 1;
    Py_ssize_t written = 0;
    for (Py_ssize_t i = 0; i < left->count; i++) {
        int wanted = left->keys[i] > limit || (left->keys[i] == limit && equal-- > 0);
        if (wanted)
            positions[written++] = first + left->places[i];
    }
    return written;
}

static PyObject *largest_of_blocks(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer values = {0}, positions = {0};
    PyObject *answer = NULL;
    Py_ssize_t block, kept, kept_last;
    if (!PyArg_ParseTuple(args, "y*nnnw*", &values, &block, &kept, &kept_last, &positions))
        return NULL;
    Py_ssize_t count = values.len / (Py_ssize_t)sizeof(float);
    if (block < 1 || block > INT32_MAX || kept < 1 || kept > block || kept_last < 0
        || kept_last > count % block || values.len != count * (Py_ssize_t)sizeof(float)
        || positions.len != (count / block * kept + kept_last) * (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "buffers of sizes that do not belong together");
        goto done;
    }
    /* One more of each, since the next is written before it is known to belong there. */
    Py_ssize_t most = smaller(block, count) + 1;
    Contenders left = {malloc(most * sizeof(uint32_t)), malloc(most * sizeof(int32_t)), 0};
    if (left.keys == NULL || left.places == NULL) {
        PyErr_NoMemory();
    } else {
        Py_ssize_t written = 0;
        Py_BEGIN_ALLOW_THREADS
        uint32_t guess = 1;
        for (Py_ssize_t start = 0; start < count; start += block) {
            Py_ssize_t size = smaller(block, count - start);
            Py_ssize_t wanted = size < block ? kept_last : kept;
            if (wanted)
                written += largest_of_block((const float *)values.buf + start, size, wanted, &guess,
                                            &left, start, (int64_t *)positions.buf + written);
        }
        Py_END_ALLOW_THREADS
        answer = PyLong_FromSsize_t(written);
    }
    free(left.keys);
    free(left.places);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&positions);
    return answer;
}

/* --- rounding to a geometric grid ---------------------------------------------------------------- */

#define DRAW_BITS 23
#define HALF_DRAW (1 << (DRAW_BITS - 1))
#define CELL_BITS 16

/* What geometric.py knows of its grid; places and key are those of draws.py. Loops get a copy, so
   that the compiler sees that what they write does not change it. */
typedef struct {
    float factor, base, base_less_1, last;
    int32_t levels;
    const int32_t *places; /* NULL where nothing is drawn */
    uint32_t key;
    const int32_t *steps; /* NULL where the base is 2 */
    int32_t cell_max;
    const float *per_gap; /* read where there are steps, and something is drawn */
    float gap_draws;
    int32_t below; /* read where there are no steps: of the level below the last, less half a draw */
} Grid;

static inline int32_t drawn(const Grid *grid, Py_ssize_t place)
{
    uint32_t bits = ((uint32_t)grid->places[place] ^ grid->key) * 0x7feb352du;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    return (int32_t)bits >> (32 - DRAW_BITS);
}

static inline float stretched(const Grid *grid, float value)
{
    float size = value * grid->factor;
    size = size < 0.0f ? -size : size;
    float low = size * grid->base_less_1 + grid->last, high = size * grid->base;
    return high > low ? high : low;
}

static inline uint8_t symbol_of(const Grid *grid, int32_t level, float value)
{
    int32_t sign = bits_of(value) >> 31;
    return (uint8_t)((level ^ sign) - sign + grid->levels);
}

FOR_EACH_MACHINE
static void round_to_powers(const float *restrict values, Py_ssize_t count, const Grid grid,
                            uint8_t *restrict symbols)
{
    const int by_chance = grid.places != NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t bits = bits_of(stretched(&grid, values[i])) + (by_chance ? drawn(&grid, i) : 0);
        int32_t level = least_of((bits - grid.below) >> DRAW_BITS, grid.levels);
        symbols[i] = symbol_of(&grid, level, values[i]);
    }
}

FOR_EACH_MACHINE
static void round_to_steps(const float *restrict values, Py_ssize_t count, const Grid grid,
                           uint8_t *restrict symbols)
{
    const int by_chance = grid.places != NULL;
    const int32_t *restrict steps = grid.steps;
    const float *restrict per_gap = grid.per_gap;
    for (Py_ssize_t i = 0; i < count; i++) {
        float size = stretched(&grid, values[i]);
        /* Without the sign that NaN may have, so that even its cell is in the table. */
        int32_t bits = bits_of(size) & 0x7fffffff;
        int32_t cell = least_of(bits >> CELL_BITS, grid.cell_max);
        int32_t level = least_of((steps[cell] + (bits & 0xffff)) >> CELL_BITS, grid.levels);
        if (by_chance) {
            int32_t chance = (int32_t)(size * per_gap[level] - grid.gap_draws);
            level += drawn(&grid, i) + HALF_DRAW < chance;
        }
        symbols[i] = symbol_of(&grid, level, values[i]);
    }
}

static PyObject *round_to_grid(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer values = {0}, places = {0}, steps = {0}, per_gap = {0}, symbols = {0};
    PyObject *answer = NULL;
    Grid grid = {0};
    double base;
    if (!PyArg_ParseTuple(args, "y*fdfiz*Iz*z*fiw*", &values, &grid.factor, &base, &grid.last,
                          &grid.levels, &places, &grid.key, &steps, &per_gap, &grid.gap_draws,
                          &grid.below, &symbols))
        return NULL;
    const Py_ssize_t count = symbols.len, word = sizeof(int32_t);
    if (values.len != count * word || (places.buf != NULL && places.len < count * word)
        || (steps.buf != NULL && steps.len < word) || grid.levels < 1 || grid.levels > SYMBOL_MAX
        || (steps.buf != NULL && places.buf != NULL && per_gap.len != (grid.levels + 1) * word)) {
        PyErr_SetString(PyExc_ValueError, "buffers of sizes that do not belong together");
        goto done;
    }
    grid.base = (float)base;
    grid.base_less_1 = (float)(base - 1);
    grid.places = places.buf;
    grid.steps = steps.buf;
    grid.cell_max = (int32_t)(steps.len / word) - 1;
    grid.per_gap = per_gap.buf;
    Py_BEGIN_ALLOW_THREADS
    if (grid.steps == NULL)
        round_to_powers(values.buf, count, grid, symbols.buf);
    else
        round_to_steps(values.buf, count, grid, symbols.buf);
    Py_END_ALLOW_THREADS
    answer = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&places);
    PyBuffer_Release(&steps);
    PyBuffer_Release(&per_gap);
    PyBuffer_Release(&symbols);
    return answer;
}

static PyMethodDef methods[] = {
    {"encode_int8", encode_int8, METH_VARARGS, "See _loops.pyi."},
    {"decode_int8", decode_int8, METH_VARARGS, "See _loops.pyi."},
    {"largest_of_blocks", largest_of_blocks, METH_VARARGS, "See _loops.pyi."},
    {"round_to_grid", round_to_grid, METH_VARARGS, "See _loops.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_loops", "Loops of codecs.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__loops(void) { return PyModuleDef_Init(&definition); }
