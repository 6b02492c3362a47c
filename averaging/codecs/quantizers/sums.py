"""Sums that come out the same on every device, since the order of adding is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

_LANES: Final = 16_384
"""Each adds up every so many-th element; their float64 sums stay in a cache."""


def sum_of(values: torch.Tensor, change: Callable[[torch.Tensor], object]) -> float:
    """The sum of what becomes of the values, in float64.

    Args:
        values: float32, 1-D.
        change: gets a float64 copy of some of them and changes it in place.
    """
    count = min(values.numel(), _LANES)
    lanes = torch.zeros(count, dtype=torch.float64, device=values.device)
    room = torch.empty_like(lanes)
    for start in range(0, values.numel(), _LANES):
        some = values[start : start + _LANES]
        part = room[: some.numel()]
        part.copy_(some)
        change(part)
        lanes[: some.numel()] += part
    # The second half onto the first, and again: a tree, the same one everywhere.
    while count > 1:
        half = (count + 1) // 2
        lanes[: count - half] += lanes[half:count]
        count = half
    return float(lanes[0])
