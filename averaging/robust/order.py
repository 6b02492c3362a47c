"""Trimmed mean and median of weighted vectors, coordinate by coordinate (core).

For each coordinate the values lie side by side in order, each as wide as its share of the total
weight, on a line from 0 to 1:

    0      lowest       |  next |      highest        1
    ├───────────────────┼───────┼─────────────────────┤
         ┊ ← trimmed mean: the mean over this part → ┊
                          ↑ median: whoever lies at 1/2, or the mean of both at a border

Both are worked out for blocks of coordinates: a matrix with a row for each contribution is sorted
down its columns, then read row by row, so that nothing is larger than the matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from averaging.allreduce.mean import accumulator_dtype, blocks, store
from averaging.codecs.floating import convert

Array = np.ndarray[Any, Any]

# Legend: N contributions, B coordinates of a block.

# Sums of shares are off by some 1e-16 each, so a border that should be met exactly may be missed.
# Trimming so much more makes sure that no sliver of a dropped value of 1e30 is left.
_SLIVER: Final = 1e-9

# Up to here a network of whole-row comparisons beats sorting columns: fivefold for 8 rows, twofold
# for 32 with their order, and also beside a thread that wants the interpreter.
_NETWORK_ROWS_MAX: Final = 32
# The matrix of a block: a mebibyte in float32. Long rows make the calls into numpy few.
_MATRIX_ELEMENTS_MAX: Final = 262_144
# Half of that where columns are sorted with their order, whose entries are of eight bytes.
_SORTED_MATRIX_ELEMENTS_MAX: Final = 131_072
_BLOCK_ELEMENTS_MAX: Final = 16_384
_BLOCK_ELEMENTS_MIN: Final = 1_024


def trimmed_mean(
    values: Sequence[Array], weights: Sequence[float], fraction: float, out: Array
) -> None:
    """Write the mean without `fraction` of the total weight at each end of each coordinate.

    A value that lies across the border counts with the weight that is inside. The result lies
    between the least and the largest value that counts.

    Args:
        values: N finite vectors, N > 0.
        weights: N numbers above 0.
        fraction: above 0, below 0.5.
        out: takes the result, rounded to its dtype.
    """
    shares = _shares(weights)
    low = fraction + min(_SLIVER, (0.5 - fraction) / 2)
    high = 1 - low
    equal = min(weights) == max(weights)
    for block in _blocks(len(out), len(values)):
        rows_NB, order_NB = _sorted(values, block, keep_order=not equal)
        if order_NB is None:
            total_B = _mean_of_rows(rows_NB, low, high)
        else:
            total_B = _mean_inside(rows_NB, order_NB, shares, low, high)
        # Sums of the largest finite values may come out infinite.
        np.clip(total_B, rows_NB[0], rows_NB[-1], out=total_B)
        store(total_B, out[block])


def median(values: Sequence[Array], weights: Sequence[float], out: Array) -> None:
    """Write each coordinate's weighted median: where two values share the middle, their mean.

    The lower of the two is the least value such that it and those below hold at least half of the
    total weight, and the upper one the greatest such that it and those above do; a billionth less
    counts as half. One of the two alone would lean, and a model trained with it would drift.
    Arguments are those of `trimmed_mean`.
    """
    shares = _shares(weights)
    equal = min(weights) == max(weights)
    for block in _blocks(len(out), len(values)):
        rows_NB, order_NB = _sorted(values, block, keep_order=not equal)
        if order_NB is None:
            lower_B, upper_B = rows_NB[(len(values) - 1) // 2], rows_NB[len(values) // 2]
        else:
            lower_B, upper_B = rows_NB[0].copy(), rows_NB[0].copy()
            below_B = shares[order_NB[0]]
            for row_B, owner_B in zip(rows_NB[1:], order_NB[1:], strict=True):
                np.copyto(lower_B, row_B, where=below_B < 0.5 - _SLIVER)
                np.copyto(upper_B, row_B, where=below_B <= 0.5 + _SLIVER)
                below_B += shares[owner_B]
        # Halved first, since the largest values have no sum.
        store(lower_B / 2 + upper_B / 2, out[block])


def lower_median(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """The lower weighted median of plain numbers; there must be one, and weights above 0."""
    shares = _shares(weights)
    ranked = sorted(zip(numbers, shares, strict=True))
    below = 0.0
    for number, share in ranked:
        below += share
        if below >= 0.5 - _SLIVER:
            return number
    return ranked[-1][0]


def _shares(weights: Sequence[float]) -> Array:
    """The weights divided by their sum, in float64, safe from overflow."""
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    shares: Array = np.array(scaled) / math.fsum(scaled)
    return shares


def _blocks(elements: int, rows: int) -> list[slice]:
    matrix = _MATRIX_ELEMENTS_MAX if rows <= _NETWORK_ROWS_MAX else _SORTED_MATRIX_ELEMENTS_MAX
    size = min(_BLOCK_ELEMENTS_MAX, max(_BLOCK_ELEMENTS_MIN, matrix // rows))
    return list(blocks(elements, size))


def _mean_of_rows(rows_NB: Array, low: float, high: float) -> Array:
    """The mean between two points of the line when all values are equally wide."""
    count = len(rows_NB)
    total_B: Array = np.zeros_like(rows_NB[0])
    scratch_B = np.empty_like(total_B)
    with np.errstate(over="ignore"):
        for number, row_B in enumerate(rows_NB):
            kept = min((number + 1) / count, high) - max(number / count, low)
            if kept > 0:
                np.multiply(row_B, kept / (high - low), out=scratch_B)
                total_B += scratch_B
    return total_B


def _mean_inside(rows_NB: Array, order_NB: Array, shares: Array, low: float, high: float) -> Array:
    """The same when each value is as wide as its owner's share."""
    total_B = np.zeros(rows_NB.shape[1])
    reached_B = np.zeros_like(total_B)
    before_B = np.full_like(total_B, low)
    with np.errstate(over="ignore"):
        for row_B, owner_B in zip(rows_NB, order_NB, strict=True):
            reached_B += shares[owner_B]
            inside_B = np.clip(reached_B, low, high)
            np.subtract(inside_B, before_B, out=before_B)
            before_B /= high - low
            before_B *= row_B
            total_B += before_B
            before_B = inside_B
    return total_B


# --- sorting ----------------------------------------------------------------------------------


def _sorted(
    values: Sequence[Array], block: slice, *, keep_order: bool
) -> tuple[Array, Array | None]:
    """The block's values sorted down each column, and whose they are when that is wanted."""
    dtype = accumulator_dtype(np.dtype(np.float32), values)
    rows_NB = np.empty((len(values), block.stop - block.start), dtype)
    for row_B, vector in zip(rows_NB, values, strict=True):
        convert(vector[block], row_B)
    if len(values) <= _NETWORK_ROWS_MAX:
        if not keep_order:
            return _network_sorted(rows_NB), None
        order_NB = np.empty(rows_NB.shape, np.uint8)
        order_NB[...] = np.arange(len(values), dtype=np.uint8)[:, None]
        _network_sort_both(rows_NB, order_NB)
        return rows_NB, order_NB
    columns_BN = np.ascontiguousarray(rows_NB.T)
    if not keep_order:
        columns_BN.sort(axis=1)
        rows_NB[...] = columns_BN.T
        return rows_NB, None
    order_BN = columns_BN.argsort(axis=1, kind="stable")
    rows_NB[...] = np.take_along_axis(columns_BN, order_BN, axis=1).T
    return rows_NB, order_BN.T


@functools.cache
def _network(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs of places to compare and exchange, which sort any `count` values.

    Source: K. E. Batcher, "Sorting networks and their applications", 1968 (odd-even merge sort).
    """
    pairs = []
    run = 1
    while run < count:
        step = run
        while step >= 1:
            for start in range(step % run, count - step, 2 * step):
                for place in range(start, start + min(step, count - start - step)):
                    if place // (2 * run) == (place + step) // (2 * run):
                        pairs.append((place, place + step))
            step //= 2
        run *= 2
    return tuple(pairs)


def _network_sorted(rows_NB: Array) -> Array:
    """Sort down the columns; returns the same memory or a copy."""
    rows = list(rows_NB)
    spare_B = np.empty_like(rows[0])
    for first, second in _network(len(rows)):
        np.minimum(rows[first], rows[second], out=spare_B)
        np.maximum(rows[first], rows[second], out=rows[second])
        rows[first], spare_B = spare_B, rows[first]
    return np.stack(rows)


def _network_sort_both(rows_NB: Array, order_NB: Array) -> None:
    """Sort down the columns in place, and let the order follow: single bytes, exchanged by xor."""
    spare_B = np.empty_like(rows_NB[0])
    swap_B = np.empty(spare_B.shape, np.bool_)
    mask_B = swap_B.view(np.uint8)
    change_B = np.empty_like(mask_B)
    for first, second in _network(len(rows_NB)):
        upper_B, lower_B = rows_NB[first], rows_NB[second]
        np.greater(upper_B, lower_B, out=swap_B)
        np.negative(mask_B, out=mask_B)
        np.bitwise_xor(order_NB[first], order_NB[second], out=change_B)
        change_B &= mask_B
        order_NB[first] ^= change_B
        order_NB[second] ^= change_B
        np.minimum(upper_B, lower_B, out=spare_B)
        np.maximum(upper_B, lower_B, out=lower_B)
        upper_B[...] = spare_B
