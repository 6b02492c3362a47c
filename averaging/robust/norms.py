"""Limits on norms: who declared too large a one, and whether chunks keep to it (core).

A member declares the L2 norm of its vector together with its weight, signed, before it sends
anything; so all aggregators know the same norms and refuse the same members. What then comes must
not have more squares in sum than the declared norm allows.

Source: the rule against outliers by median norm is common practice; see S. P. Karimireddy, L. He,
M. Jaggi, "Learning from History for Byzantine Robust Optimization", 2021, for what it cannot do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from averaging.allreduce.mean import blocks
from averaging.codecs.floating import convert
from averaging.robust.squares import BLOCK_ELEMENTS, float32_square_sum

Array = np.ndarray[Any, Any]
Peer = TypeVar("Peer", bound=Hashable)

NORM_REFUSED: Final = "norm "
"""How each reason begins for which a norm is refused."""
# Of one or two norms nobody can say which is the odd one.
_COUNTED_MIN: Final = 3


def refused_norms(
    norms: Mapping[Peer, float], weights: Mapping[Peer, float], *, factor_max: float = 10.0
) -> dict[Peer, str]:
    """Who is refused for the norm it declared, and why, in few words.

    Refused are norms that are not finite or below 0, and norms over `factor_max` × the median of
    the valid norms above 0 of members with a weight above 0. Of an even number the lower of the
    two in the middle is the median. With fewer than three such norms none is too large.

    Args:
        norms: what each member declared.
        weights: what each of the same members declared as its weight.
        factor_max: how many medians a norm may be.
    """
    refused = {
        peer: f"{NORM_REFUSED}{norm:.3g} is not a number >= 0"
        for peer, norm in norms.items()
        if not (math.isfinite(norm) and norm >= 0)
    }
    counted = {
        peer: norm
        for peer, norm in norms.items()
        if peer not in refused and norm > 0 and weights[peer] > 0
    }
    if len(counted) < _COUNTED_MIN:
        return refused
    median = sorted(counted.values())[(len(counted) - 1) // 2]
    for peer, norm in counted.items():
        if norm > factor_max * median:
            refused[peer] = (
                f"{NORM_REFUSED}{norm:.3g} is over {factor_max:g} × the median {median:.3g}"
            )
    return refused


def square_sum(values: Array) -> float:
    """The sum of squares in float64, without a copy of the whole vector.

    It is finite if and only if all values are finite and the sum is at most the largest float64,
    which squares of float16 and float32 cannot exceed.
    """
    scratch = np.empty(min(len(values), BLOCK_ELEMENTS))
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks(len(values), BLOCK_ELEMENTS):
            part = values[block]
            if part.dtype != np.float64:
                part = scratch[: len(part)]
                convert(values[block], part)
            total += float(np.dot(part, part))
    return total


def rough_square_sum(values: Array) -> float:
    """The same to four digits, several times faster for float32."""
    return float32_square_sum(values) if values.dtype == np.float32 else square_sum(values)
