"""The weighted mean of one chunk: exact for whole weights, finite for finite values (core)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Weights in these bounds are used as they are, so that whole numbers stay exact in float32;
# others are scaled by the largest, lest products overflow or vanish.
_PLAIN_WEIGHT_MIN = 2.0**-20
_PLAIN_WEIGHT_MAX = 2.0**24


@dataclass(frozen=True)
class Contribution:
    """One sender's values for a chunk."""

    weight: float
    values: Array


def all_finite(values: Array) -> bool:
    """Whether no value is infinite or not a number, without a temporary in the common case."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum of finite numbers can overflow, but one bad value always spoils it.
        total = values.sum(dtype=np.result_type(values.dtype, np.float32))
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def weighted_mean(contributions: Sequence[Contribution], dtype: np.dtype[Any]) -> Array | None:
    """The weighted mean in the given dtype, or None when the weights sum to zero.

    Sums are kept in float32, or in float64 for float64. The result is finite when the values are.
    """
    weights = [contribution.weight for contribution in contributions]
    if not any(weight > 0 for weight in weights):
        return None
    largest = max(weights)
    scale = 1.0 if _PLAIN_WEIGHT_MIN <= largest <= _PLAIN_WEIGHT_MAX else largest
    sum_dtype = np.result_type(dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = contributions[0].values.astype(sum_dtype)
        if weights[0] != scale:
            total *= sum_dtype.type(weights[0] / scale)
        scratch = np.empty_like(total) if any(weight != scale for weight in weights[1:]) else None
        for contribution in contributions[1:]:
            if contribution.weight == scale:
                total += contribution.values
            else:
                factor = sum_dtype.type(contribution.weight / scale)
                np.multiply(contribution.values, factor, out=scratch, dtype=sum_dtype)
                total += scratch
        total /= sum_dtype.type(math.fsum(weight / scale for weight in weights))
        if not all_finite(total):
            total = _convex_mean(contributions, largest, dtype)
        return total.astype(dtype, copy=False)


def _convex_mean(
    contributions: Sequence[Contribution], largest: float, dtype: np.dtype[Any]
) -> Array:
    """The same, slower, for values so large that their sum overflows: no step exceeds them."""
    whole = math.fsum(contribution.weight / largest for contribution in contributions)
    total = np.zeros(contributions[0].values.shape, np.float64)
    for contribution in contributions:
        total += contribution.values * (contribution.weight / largest / whole)
    limit = np.finfo(dtype).max
    return np.clip(np.nan_to_num(total, copy=False), -limit, limit)
