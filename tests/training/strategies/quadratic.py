"""A small task in float64 for simulated swarms, whose gradient over all examples is known."""

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
