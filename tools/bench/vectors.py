"""Vectors whose mean is known at every element without a second copy of them (pure).

Each is one short pattern over and over, begun elsewhere by each peer and in each round: then so is
the mean, and a chunk that is lost, stale or put in the wrong place is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = np.ndarray[Any, Any]
Pattern = npt.NDArray[np.float32]

PERIOD = 65_521
"""Elements of the pattern: a prime, so that no chunk's size is a multiple of it."""
_PEER_STEP, _ROUND_STEP = 977, 131
"""How far apart two peers and two rounds begin in the pattern."""


@cache
def _normal() -> Pattern:
    """Shape (PERIOD,), normally distributed."""
    return np.random.default_rng(0).standard_normal(PERIOD, dtype=np.float32)


def pattern_of(rank: int, round_index: int) -> Pattern:
    """What the peer of this rank repeats in this round: shape (PERIOD,)."""
    return np.roll(_normal(), -(_PEER_STEP * rank + _ROUND_STEP * round_index))


def mean_of(ranks: Sequence[int], round_index: int) -> Pattern:
    """What the mean of these peers' vectors repeats: shape (PERIOD,)."""
    total = np.zeros(PERIOD, dtype=np.float64)
    for rank in ranks:
        total += pattern_of(rank, round_index)
    return (total / len(ranks)).astype(np.float32)


def fill(vector_V: Array, pattern: Pattern) -> None:
    """Repeat the pattern in the vector, in place; any float dtype."""
    for start in range(0, len(vector_V), PERIOD):
        block = vector_V[start : start + PERIOD]
        block[:] = pattern[: len(block)]


def errors(vector_V: Array, patterns: Sequence[Pattern], tolerance: float) -> tuple[float, float]:
    """How far each element is from the pattern nearest to it.

    Returns:
        the largest difference (NaN if there is one), and the part of the vector, 0 to 1, that is
        within the tolerance.
    """
    largest, right = 0.0, 0
    for start in range(0, len(vector_V), PERIOD):
        block = vector_V[start : start + PERIOD].astype(np.float32)
        nearest = np.abs(block - patterns[0][: len(block)])
        for other in patterns[1:]:
            np.minimum(nearest, np.abs(block - other[: len(block)]), out=nearest)
        largest = float(np.maximum(largest, nearest.max()))
        right += int((nearest <= tolerance).sum())
    return largest, right / max(1, len(vector_V))
