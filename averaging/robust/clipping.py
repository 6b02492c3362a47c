"""Centered clipping of the contributions to one chunk (core).

The center starts at the coordinate-wise median and moves a few times to the mean of the
contributions, each drawn towards the center until it is at most a radius away:

    center ← center + Σ share_i · (values_i − center) · min(1, radius / ‖values_i − center‖)

In a butterfly no aggregator sees a whole vector, so distances are those within the chunk. One
radius for a whole run would not do: layers differ in scale by orders of magnitude, and gradients
shrink as training goes on. So the radius is a multiple of the chunk's own weighted median distance
from the start. Liars with less than half of the weight cannot raise that above the largest
distance of an honest contribution, and in each iteration they move the center by their share of
the weight × the radius at most.

The limits of this: a liar that is far off in a few chunks only is clipped in those only. And where
more than half of the members sent exactly the same (rows of an embedding that few saw) the radius
is 0, and what the others sent there is lost.

Source: S. P. Karimireddy, L. He, M. Jaggi, "Learning from History for Byzantine Robust
Optimization", 2021, equation (CC); the start at the median: E. Gorbunov, A. Borzunov, M. Diskin,
M. Ryabinin, "Secure Distributed Training at Scale", 2022.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from averaging.allreduce.mean import accumulator_dtype, blocks, store, write_scaled
from averaging.codecs.floating import convert
from averaging.robust.norms import square_sum
from averaging.robust.order import lower_median, median
from averaging.robust.squares import BLOCK_ELEMENTS

Array = np.ndarray[Any, Any]


def centered_clipping(
    values: Sequence[Array],
    weights: Sequence[float],
    *,
    radius: float,
    iterations: int,
    out: Array,
) -> None:
    """Write the clipped mean of vectors; finite when they are.

    A contribution is left out when its difference from the center overflows float32, or float64 for
    float64.

    Args:
        values: finite vectors of one length, at least one.
        weights: numbers above 0, one for each.
        radius: a multiple of the weighted median distance from the start.
        iterations: how often the center moves.
        out: takes the result, rounded to its dtype.
    """
    center = np.empty(out.shape, accumulator_dtype(np.dtype(np.float32), values))
    median(values, weights, center)
    largest = max(weights)
    whole = math.fsum(weight / largest for weight in weights)
    distances = [_distance(vector, center) for vector in values]
    typical = lower_median(distances, weights)
    limit = min(radius * typical, sys.float_info.max)
    for iteration in range(iterations if math.isfinite(typical) else 0):
        if iteration:
            distances = [_distance(vector, center) for vector in values]
        factors = [
            weight / largest / whole * _drawn(distance, limit)
            for weight, distance in zip(weights, distances, strict=True)
        ]
        _move(center, values, factors)
    store(center, out)


def _drawn(distance: float, limit: float) -> float:
    """How much of its way from the center a contribution keeps."""
    if distance <= limit:
        return 1.0
    return limit / distance if math.isfinite(distance) else 0.0


def _distance(vector: Array, center: Array) -> float:
    """The L2 distance, its squares summed in float64; infinite when a difference overflows."""
    scratch = np.empty(min(len(center), BLOCK_ELEMENTS), center.dtype)
    squares = 0.0
    with np.errstate(over="ignore"):
        for block in blocks(len(center), BLOCK_ELEMENTS):
            difference, part = scratch[: block.stop - block.start], vector[block]
            if part.dtype != center.dtype:
                convert(part, difference)
                part = difference
            np.subtract(part, center[block], out=difference)
            squares += square_sum(difference)
    return math.sqrt(squares)


def _move(center: Array, values: Sequence[Array], factors: Sequence[float]) -> None:
    """Move the center, in place, by factor × difference from each vector."""
    stays = 1 - math.fsum(factors)
    limit = np.finfo(center.dtype).max
    scratch = np.empty(min(len(center), BLOCK_ELEMENTS), center.dtype)
    with np.errstate(over="ignore", under="ignore"):
        for block in blocks(len(center), BLOCK_ELEMENTS):
            moved, product = center[block], scratch[: block.stop - block.start]
            moved *= stays
            for vector, factor in zip(values, factors, strict=True):
                if factor > 0:
                    write_scaled(vector[block], factor, product)
                    moved += product
            # The factors sum to 1 but for rounding, which only the largest values can feel.
            np.clip(moved, -limit, limit, out=moved)
