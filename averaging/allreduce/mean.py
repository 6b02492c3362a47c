"""The weighted mean of vectors, added in place block by block (core).

Each contribution is read once and added in place: nothing is made but the result and buffers of
one block. Adding in the given order gives the same bits every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from averaging.codecs.floating import convert
from averaging.memory import MEMORY

Array = np.ndarray[Any, Any]

# The usual chunk of a round. Shorter blocks measured slower: the calls into numpy cost more than
# a better use of the cache saves. Longer vectors are cut, so that buffers stay small.
BLOCK_ELEMENTS: Final = 131_072

# Weights in these bounds are used as they are, so that whole numbers stay exact in float32;
# others are scaled by the largest, lest products overflow or vanish.
_PLAIN_WEIGHT_MIN: Final = 2.0**-20
_PLAIN_WEIGHT_MAX: Final = 2.0**24


@dataclass(frozen=True)
class Contribution:
    """One sender's values for a chunk."""

    weight: float
    values: Array


def weighted_mean(
    contributions: Sequence[Contribution], dtype: np.dtype[Any], out: Array | None = None
) -> Array | None:
    """The weighted mean in the given dtype, or None when the weights sum to zero.

    Sums are kept in float32, or in float64 when the dtype or any values are float64; whole-number
    weights are exact. The result is finite when the values are, for every dtype. A contribution of
    weight 0 is not read.

    Args:
        out: where the mean is made, of its size and dtype and apart from all values; None for
            memory of its own.
    """
    counted = [contribution for contribution in contributions if contribution.weight > 0]
    if not counted:
        return None
    weights = [contribution.weight for contribution in counted]
    largest = max(weights)
    if min(weights) == largest:
        scale = largest
    else:
        scale = 1.0 if _PLAIN_WEIGHT_MIN <= largest <= _PLAIN_WEIGHT_MAX else largest
    factors = [weight / scale for weight in weights]
    sum_dtype = accumulator_dtype(dtype, [contribution.values for contribution in counted])
    mean = MEMORY.empty(len(counted[0].values), dtype) if out is None else out
    block_elements = min(len(mean), BLOCK_ELEMENTS)
    scratch = MEMORY.empty(2 * block_elements, sum_dtype).reshape(2, block_elements)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in blocks(len(mean)):
            parts = [contribution.values[block] for contribution in counted]
            # The sum is made in the result itself where its dtype allows that.
            own = mean[block]
            total = own if dtype == sum_dtype else scratch[0, : len(own)]
            _add_up(parts, factors, total, scratch[1, : len(total)])
            total /= sum_dtype.type(math.fsum(factors))
            if not all_finite(total):
                total = _convex_mean(parts, factors)
            store(total, own)
    return mean


def blocks(elements: int, block_elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """The slices that cut so many elements into blocks, in order."""
    for start in range(0, elements, block_elements):
        yield slice(start, min(start + block_elements, elements))


def accumulator_dtype(dtype: np.dtype[Any], values: Sequence[Array]) -> np.dtype[Any]:
    """What sums of these values are kept in: float32, or float64 when anything is float64."""
    return np.result_type(np.float32, dtype, *(part.dtype for part in values))


def all_finite(values: Array) -> bool:
    """Whether no value is infinite or not a number; exact, and without a temporary.

    As whole numbers the bits of floats are in order: with the sign bit set they are the larger
    ones when read as unsigned, and the negative ones when read as signed.
    """
    if not values.size:
        return True
    size = values.dtype.itemsize
    unsigned = values.view(f"u{size}")
    infinite = int(np.array(np.inf, values.dtype).view(f"u{size}"))
    sign = 1 << (8 * size - 1)
    return int(unsigned.max()) < (sign | infinite) and int(values.view(f"i{size}").max()) < infinite


def store(total: Array, out: Array) -> None:
    """Round finite values into a block of the result; what is too large becomes its largest.

    `total` may be changed, and may be `out` itself.
    """
    limit = float(np.finfo(out.dtype).max)
    if float(np.finfo(total.dtype).max) > limit:
        np.clip(total, -limit, limit, out=total)
    convert(total, out)


def write_scaled(part: Array, factor: float, out: Array) -> None:
    """Write factor × part into `out`, in its dtype."""
    if part.dtype != out.dtype:
        convert(part, out)
        part = out
    if factor != 1.0:
        np.multiply(part, factor, out=out)
    elif part is not out:
        out[...] = part


def _add_up(parts: Sequence[Array], factors: Sequence[float], total: Array, scratch: Array) -> None:
    """Write the sum of factor × part into `total`; both buffers are overwritten."""
    write_scaled(parts[0], factors[0], total)
    for part, factor in zip(parts[1:], factors[1:], strict=True):
        if factor == 1.0 and part.dtype == total.dtype:
            np.add(total, part, out=total)
        else:
            write_scaled(part, factor, scratch)
            np.add(total, scratch, out=total)


def _convex_mean(parts: Sequence[Array], factors: Sequence[float]) -> Array:
    """The same, slower, for values so large that sums overflow: no step exceeds the largest."""
    whole = math.fsum(factors)
    total = np.zeros(parts[0].shape, np.float64)
    for part, factor in zip(parts, factors, strict=True):
        total += part * (np.float64(factor) / whole)
    limit = np.finfo(np.float64).max
    return np.clip(np.nan_to_num(total, copy=False), -limit, limit)
