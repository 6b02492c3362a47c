"""Copies between float16 and wider floats, several times faster than numpy's own (core).

numpy converts halves one by one, and reports each that is subnormal (below 6e-5, as many gradients
are) to the floating-point unit, which takes a hundred times longer than the conversion. Here both
directions are a few whole-array operations on the bits, with the same results.

    float16    s eeeee mmmmmmmmmm                  exponent bias 15
    float32    s eeeeeeee mmmmmmmmmm0000000000000  exponent bias 127

Shifted left by 13 the mantissas agree, and the exponents differ by 112: a factor of 2**112, which
holds for subnormal numbers too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

_HALF: Final = np.dtype(np.float16)
_SINGLE: Final = np.dtype(np.float32)
_DOUBLE: Final = np.dtype(np.float64)

# Scratch for so many stays in a core's second-level cache.
_BLOCK_ELEMENTS: Final = 32_768

_BIAS: Final = np.float32(2.0**112)
_UNBIAS: Final = np.float32(2.0**-112)
# After the shift of a sign-extended half, copies of the sign stand in these bits.
_SIGN_COPIES: Final = np.int32(0x70000000)
_SINGLE_EXPONENT: Final = np.uint32(0x7F800000)
_NORMAL_MIN: Final = np.float32(2.0**-14)
# Numbers from here on are infinite as halves.
_OVER: Final = np.float32(2.0**16)


def convert(values: Array, out: Array) -> None:
    """Copy a vector into another of the same length, rounded to its dtype (half to even).

    It does what `out[...] = values` does, with no warnings: what is too large becomes infinite.
    Two vectors that share memory must be the same.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        _convert(values, out)


def all_finite(values: Array) -> bool:
    """Whether no value is infinite or not a number; exact, and without a temporary.

    As whole numbers the bits of floats are in order: with the sign bit set they are the larger
    ones when read as unsigned, and the negative ones when read as signed.
    """
    if not values.size:
        return True
    if not values.dtype.isnative or values.dtype not in (_HALF, _SINGLE, _DOUBLE):
        return bool(np.isfinite(values).all())
    size = values.dtype.itemsize
    unsigned = values.view(f"u{size}")
    infinite = int(np.array(np.inf, values.dtype).view(f"u{size}"))
    sign = 1 << (8 * size - 1)
    return int(unsigned.max()) < (sign | infinite) and int(values.view(f"i{size}").max()) < infinite


def _convert(values: Array, out: Array) -> None:
    pair = (values.dtype, out.dtype)
    if pair not in ((_HALF, _SINGLE), (_HALF, _DOUBLE), (_SINGLE, _HALF)):
        if values is not out:
            out[...] = values
        return
    scratch = np.empty((2, min(len(values), _BLOCK_ELEMENTS)), np.float32)
    for start in range(0, len(values), _BLOCK_ELEMENTS):
        source, target = values[start:][:_BLOCK_ELEMENTS], out[start:][:_BLOCK_ELEMENTS]
        if out.dtype == _HALF:
            _narrow(source, target, scratch[:, : len(source)])
        elif out.dtype == _SINGLE and target.flags.c_contiguous:
            _widen(source, target)
        else:
            _widen(source, scratch[0, : len(source)])
            target[...] = scratch[0, : len(source)]


def _widen(halves: Array, out: Array) -> None:
    """Write halves as contiguous float32."""
    if not all_finite(halves):
        # Their exponent stands for something else.
        out[...] = halves
        return
    bits = out.view(np.int32)
    np.copyto(bits, halves.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, ~_SIGN_COPIES, out=bits)
    np.multiply(out, _BIAS, out=out)


def _narrow(values: Array, halves: Array, scratch: Array) -> None:
    """Round float32 to halves; the scratch holds two rows of as many float32.

    Adding and subtracting a power of two 2**13 times as large rounds to the 10 bits that a half
    has behind the leading one; subnormal halves are all rounded as the least normal one is.
    """
    rounded, power = scratch
    rounded_bits, power_bits = rounded.view(np.uint32), power.view(np.uint32)
    np.abs(values, out=rounded)
    np.minimum(rounded, _OVER, out=rounded)
    np.maximum(rounded, _NORMAL_MIN, out=power)
    np.bitwise_and(power_bits, _SINGLE_EXPONENT, out=power_bits)
    np.add(power_bits, np.uint32(13 << 23), out=power_bits)
    np.add(rounded, power, out=rounded)
    np.subtract(rounded, power, out=rounded)
    np.multiply(rounded, _UNBIAS, out=rounded)
    np.right_shift(rounded_bits, 13, out=rounded_bits)
    np.right_shift(values.view(np.uint32), 16, out=power_bits)
    np.bitwise_and(power_bits, np.uint32(0x8000), out=power_bits)
    np.bitwise_or(rounded_bits, power_bits, out=rounded_bits)
    np.copyto(halves.view(np.uint16), rounded_bits, casting="unsafe")
