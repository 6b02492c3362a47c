"""Vectors of known distributions, by a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "laplace": lambda rng, count: rng.laplace(size=count),
    "student-3": lambda rng, count: rng.standard_t(3, count),
    "uniform": lambda rng, count: rng.uniform(-1, 1, count),
    "exponential": lambda rng, count: rng.exponential(size=count),
    "shifted": lambda rng, count: rng.normal(0.5, 1, count),
}


def drawn(distribution: str, count: int, seed: int = 0) -> torch.Tensor:
    """So many numbers of a distribution: float32."""
    numbers = DISTRIBUTIONS[distribution](np.random.default_rng(seed), count)
    return torch.from_numpy(numbers.astype(np.float32))


def relative_error(decoded: torch.Tensor, values: torch.Tensor) -> float:
    """‖decoded − values‖² / ‖values‖², in float64."""
    difference = decoded.double() - values.double()
    return float(difference.dot(difference) / values.double().dot(values.double()))
