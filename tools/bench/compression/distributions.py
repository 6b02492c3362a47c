"""Numbers of known distributions, and what of ‖x‖² is not among their largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
_HALVINGS = 60

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "Laplace": lambda rng, count: rng.laplace(size=count),
    "exponential": lambda rng, count: rng.exponential(size=count),
    "Student-3": lambda rng, count: rng.standard_t(3, count),
    "uniform": lambda rng, count: rng.uniform(-1, 1, count),
    "shifted normal": lambda rng, count: rng.normal(0.5, 1, count),
}


def drawn(distribution: str, count: int, seed: int = 0) -> torch.Tensor:
    """So many numbers: float32, shape (count,)."""
    numbers = DISTRIBUTIONS[distribution](np.random.default_rng(seed), count)
    return torch.from_numpy(numbers.astype(np.float32))


def missed_by_topk(distribution: str, density: float) -> float:
    """E‖x − Top_k(x)‖² / E‖x‖² of very many numbers, k / d of which are kept: exact.

    Raises:
        KeyError: there is no formula for this distribution.
    """
    return _MISSED[distribution](density)


def density_that_misses(distribution: str, share: float) -> float:
    """Which part of all elements must be kept, so that this share of ‖x‖² is missed."""
    return _root(lambda density: missed_by_topk(distribution, density) - share)


def _normal(density: float) -> float:
    limit = NormalDist().inv_cdf(1 - density / 2)
    return 1 - density - 2 * limit * NormalDist().pdf(limit)


def _exponential(density: float) -> float:
    limit = -math.log(density)
    return 1 - density * (limit**2 + 2 * limit + 2) / 2


def _student_3(density: float) -> float:
    """With tan θ = limit / √3 both the kept part and what it misses are short."""
    kept = _root(
        lambda share: 1 - (math.pi * share + math.sin(math.pi * share)) / math.pi - density
    )
    angle = math.pi * kept
    return (angle - math.sin(angle)) / math.pi


_MISSED: dict[str, Callable[[float], float]] = {
    "uniform": lambda density: (1 - density) ** 3,
    "normal": _normal,
    "exponential": _exponential,
    "Student-3": _student_3,
}


def _root(falling: Callable[[float], float]) -> float:
    """Where a falling function of 0 to 1 crosses 0."""
    low, high = 1e-12, 1 - 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
