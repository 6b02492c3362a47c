"""The norms of a global step's gradients, to the same bits at every member."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from averaging import RoundReport
from training.progress.batch_schedule import StepNorms

Array = np.ndarray[Any, Any]

# A power of two, for folding; 64 KiB of float64 stay in a processor's cache.
_BLOCK_ELEMENTS = 8192


def step_norms(report: RoundReport, mean: Iterable[Array]) -> StepNorms:
    """What a successful round says of the members' norms.

    Args:
        mean: the agreed mean, in whatever parts, always the same ones in the same order.
    """
    contributors = [
        (member.weight, member.norm, member.fraction)
        for _, member in sorted(report.members.items())
        if member.weight > 0 and member.fraction > 0
    ]
    return StepNorms(
        members=tuple((weight, norm) for weight, norm, fraction in contributors if fraction == 1),
        whole=all(fraction == 1 for _, _, fraction in contributors),
        squared=squared_norm(mean),
    )


def squared_norm(arrays: Iterable[Array]) -> float:
    """The sum of all squares in float64, the same bits on every machine.

    A BLAS and NumPy's own sums add in an order that depends on the processor. Elementwise products
    and sums do not; so squares are added up in fixed places, which are then folded by halves.
    """
    places = np.zeros(_BLOCK_ELEMENTS)
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, len(flat), _BLOCK_ELEMENTS):
            part = flat[start : start + _BLOCK_ELEMENTS].astype(np.float64)
            with np.errstate(over="ignore"):
                places[: len(part)] += part * part
    while len(places) > 1:
        half = len(places) // 2
        places = places[:half] + places[half:]
    return float(places[0])
