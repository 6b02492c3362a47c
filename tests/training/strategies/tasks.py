"""Small tasks in float64 for simulated swarms, whose gradients can be written down."""

from __future__ import annotations

import numpy as np

from training.strategies.strategy import Vector


class Quadratic:
    """Least squares: each worker draws examples of its own, of sizes of its own."""

    def __init__(self, sizes: tuple[int, ...], elements: int = 7) -> None:
        rng = np.random.default_rng(1)
        self._sizes = sizes
        self._inputs = rng.standard_normal((len(sizes), 50, max(sizes), elements))
        self._targets = rng.standard_normal((len(sizes), 50, max(sizes)))

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """Of half the mean squared error."""
        inputs, errors = self._errors(parameters_E, worker, step)
        return float(errors @ errors) / (2 * len(errors)), inputs.T @ errors / len(errors)

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """Half the mean squared error."""
        return self.gradient(parameters_E, worker, step)[0]

    def samples(self, worker: int, step: int) -> int:
        """Differs from worker to worker."""
        return self._sizes[worker]

    def batch_gradient(self, parameters_E: Vector, step: int) -> Vector:
        """Of half the mean squared error over all workers' examples."""
        every = [self._errors(parameters_E, worker, step) for worker in range(len(self._sizes))]
        inputs = np.concatenate([inputs for inputs, _ in every])
        errors = np.concatenate([errors for _, errors in every])
        return np.asarray(inputs.T @ errors / len(errors))

    def _errors(self, parameters_E: Vector, worker: int, step: int) -> tuple[Vector, Vector]:
        size = self._sizes[worker]
        inputs = self._inputs[worker, step, :size]
        return inputs, inputs @ parameters_E - self._targets[worker, step, :size]


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
