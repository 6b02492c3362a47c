"""Losses with a formula, alike for all workers, where strategies come to rest differently."""

from __future__ import annotations

import numpy as np

from training.strategies.strategy import Vector


class DoubleWell:
    """f(x) = (x² − 1)²: minima at ±1, a maximum at 0 between them."""

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """The same for all."""
        return self.loss(parameters_E, worker, step), self.slope(parameters_E)

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """f"""
        return float(np.square(np.square(parameters_E) - 1).sum())

    def samples(self, worker: int, step: int) -> int:
        """Counts as one."""
        return 1

    def slope(self, parameters_E: Vector) -> Vector:
        """f'"""
        return np.asarray(4 * parameters_E * (np.square(parameters_E) - 1))


class MatrixCompletion:
    """A symmetric matrix of rank 2 with four fifths known: f(X) = ‖P(XXᵀ − M)‖² / 4."""

    SIDE, RANK = 30, 2

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        factor = rng.standard_normal((self.SIDE, self.RANK))
        upper = np.triu(rng.random((self.SIDE, self.SIDE)) < 0.8)
        self._known = upper | upper.T
        self._matrix = factor @ factor.T

    def start(self, seed: int) -> Vector:
        """A factor to begin with."""
        return np.random.default_rng(seed).standard_normal(self.SIDE * self.RANK)

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """The same for all."""
        factor = parameters_E.reshape(self.SIDE, self.RANK)
        errors = self._known * (factor @ factor.T - self._matrix)
        return float(np.square(errors).sum()) / 4, (errors @ factor).ravel()

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """f"""
        return self.gradient(parameters_E, worker, step)[0]

    def samples(self, worker: int, step: int) -> int:
        """Counts as one."""
        return 1
