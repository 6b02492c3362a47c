"""Sums of squares of float32, roughly and fast, also where there is no network (core)."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

# A block in float64 is 64 KiB, and short enough that a BLAS does not start threads for it.
BLOCK_ELEMENTS: Final = 8_192


def float32_square_sum(values: Array) -> float:
    """The sum of squares to four digits, finite if and only if all values are.

    The sum of a block is made in float32 in many parallel parts, so that its rounding stays below
    a hundred-thousandth. What is too small to be squared there counts as 0.

    Args:
        values: 1-D, contiguous, float32.
    """
    rest = len(values) % BLOCK_ELEMENTS
    rows, last = values[: len(values) - rest].reshape(-1, BLOCK_ELEMENTS), values[-rest:]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = float(np.vecdot(rows, rows).sum(dtype=np.float64))
        if rest:
            total += float(np.dot(last, last))
        if math.isfinite(total):
            return total
        # A square may overflow where its value does not.
        total = 0.0
        for start in range(0, len(values), BLOCK_ELEMENTS):
            part = values[start : start + BLOCK_ELEMENTS].astype(np.float64)
            total += float(np.dot(part, part))
    return total
