"""Combine the contributions to a chunk by a rule (core).

Like the weighted mean, every rule reads contributions in the given order and works in blocks of
coordinates: equal inputs give equal bits, and temporaries stay within a few mebibytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from averaging.allreduce.mean import Contribution, weighted_mean
from averaging.robust.clipping import centered_clipping
from averaging.robust.order import median, trimmed_mean
from averaging.robust.rule import Rule, RuleKind

Array = np.ndarray[Any, Any]


def aggregate(
    values: Sequence[Array],
    weights: Sequence[float],
    rule: Rule,
    out_dtype: np.dtype[Any],
    out: Array | None = None,
) -> Array | None:
    """What the rule makes of weighted vectors, or None when the weights sum to 0.

    The result is finite when the values are. Vectors of weight 0 are not read. With fewer
    contributions than `rule.members_min` the formulas still hold, but a liar is not borne.

    Args:
        values: vectors of one length, in member order, with finite values; not changed.
        weights: finite numbers >= 0, one for each vector.
        rule: how they are combined.
        out_dtype: of the result, float16, float32 or float64; larger numbers become its largest.
        out: where the result is made, of its size and dtype and apart from all values; None for
            memory of its own.
    """
    counted = [
        (vector, weight) for vector, weight in zip(values, weights, strict=True) if weight > 0
    ]
    if not counted:
        return None
    vectors = [vector for vector, _ in counted]
    shares = [weight for _, weight in counted]
    if rule.kind is RuleKind.MEAN:
        contributions = [Contribution(weight, vector) for vector, weight in counted]
        return weighted_mean(contributions, out_dtype, out)
    out = np.empty(vectors[0].shape, out_dtype) if out is None else out
    match rule.kind:
        case RuleKind.MEDIAN:
            median(vectors, shares, out)
        case RuleKind.TRIMMED_MEAN:
            assert rule.fraction is not None
            trimmed_mean(vectors, shares, rule.fraction, out)
        case RuleKind.CENTERED_CLIPPING:
            assert rule.radius is not None
            assert rule.iterations is not None
            centered_clipping(
                vectors, shares, radius=rule.radius, iterations=rule.iterations, out=out
            )
    return out
