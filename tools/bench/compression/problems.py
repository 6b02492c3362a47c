"""Small convex problems that several workers share, each with a part of the data."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from training.recipes.digits import load_data

Vector = np.ndarray[Any, Any]
_NEWTON_STEPS, _NEWTON_ENOUGH = 50, 1e-9
"""Each step squares the error, so the last one leaves none that float64 could hold."""
_WIDTH = 6.0
"""Of the kernel, in standard deviations of a pixel: so that digits differ, and few are alone."""


class Problem(Protocol):
    """The mean of the workers' functions is to be made small."""

    workers: int
    lowest: float
    """The least value of the mean."""
    smoothness: float
    """L: the gradient of the mean changes by no more than this for each unit of way."""

    def start(self) -> Vector:
        """Where descent begins: float64, shape (d,)."""

    def gradient(self, point: Vector, worker: int) -> Vector:
        """Of one worker's function: float64, shape (d,)."""

    def loss(self, point: Vector) -> float:
        """The mean of all workers' functions."""


class ThreeWorkers:
    """fᵢ(x) = ⟨aᵢ, x⟩² + ‖x‖²/4, on which descent with Top-1 diverges for every step.

    From (1, 1, 1) each worker's largest element is that of −3, and points away from the minimum.

    Source: Beznosikov et al., "On Biased Compression for Distributed Learning", section 5.1.
    """

    workers = 3
    lowest = 0.0

    def __init__(self) -> None:
        self._slopes = np.full((3, 3), 2.0) - 5 * np.eye(3)
        curvature = 2 / 3 * self._slopes.T @ self._slopes + np.eye(3) / 2
        self.smoothness = float(np.linalg.eigvalsh(curvature)[-1])

    def start(self) -> Vector:
        """See Problem."""
        return np.ones(3)

    def gradient(self, point: Vector, worker: int) -> Vector:
        """See Problem."""
        slope = self._slopes[worker]
        gradient: Vector = 2 * slope * (slope @ point) + point / 2
        return gradient

    def loss(self, point: Vector) -> float:
        """See Problem."""
        return float(((self._slopes @ point) ** 2).mean() + point @ point / 4)


class Logistic:
    """Logistic regression with a square penalty, the examples dealt out in turn.

    Args:
        inputs: shape (examples, d), float64.
        signs: of each example's class, −1 or 1.
        penalty: λ of λ‖x‖²/2.
    """

    def __init__(self, inputs: Vector, signs: Vector, *, workers: int, penalty: float) -> None:
        self.workers = workers
        self._all = inputs * signs[:, None]
        self._parts = [self._all[worker::workers] for worker in range(workers)]
        self._penalty = penalty
        # Workers count the same, whatever their number of examples.
        self._shares = np.empty(len(inputs))
        for worker, part in enumerate(self._parts):
            self._shares[worker::workers] = 1 / (workers * len(part))
        weighted = self._all * self._shares[:, None]
        largest = np.linalg.eigvalsh(weighted.T @ self._all)[-1]
        self.smoothness = float(largest / 4 + penalty)
        self.lowest = self.loss(self._minimum())

    def start(self) -> Vector:
        """See Problem."""
        return np.zeros(self._all.shape[1])

    def gradient(self, point: Vector, worker: int) -> Vector:
        """See Problem."""
        part = self._parts[worker]
        gradient: Vector = -part.T @ _sigmoid(-part @ point) / len(part) + self._penalty * point
        return gradient

    def loss(self, point: Vector) -> float:
        """See Problem."""
        losses = np.logaddexp(0, -self._all @ point)
        return float(self._shares @ losses + self._penalty * point @ point / 2)

    def _minimum(self) -> Vector:
        """By Newton's method, to the precision of float64."""
        point = self.start()
        for _ in range(_NEWTON_STEPS):
            chance = _sigmoid(-self._all @ point)
            gradient = -self._all.T @ (self._shares * chance) + self._penalty * point
            weights = self._shares * chance * (1 - chance)
            curvature = self._all.T @ (self._all * weights[:, None])
            curvature += self._penalty * np.eye(len(point))
            step = np.linalg.solve(curvature, gradient)
            point = point - step
            if np.linalg.norm(step) < _NEWTON_ENOUGH:
                break
        return point


def synthetic(seed: int = 0) -> Logistic:
    """Ten workers, 50 inputs whose scales reach from 1 down to 1/30, and labels with errors."""
    rng = np.random.default_rng(seed)
    examples, inputs = 5_000, 50
    scales = np.geomspace(1, 1 / 100, inputs)
    features = rng.standard_normal((examples, inputs)) * rng.permutation(scales)
    truth = rng.standard_normal(inputs) * 3
    noise = rng.logistic(size=examples)
    signs = np.where(features @ truth + noise > 0, 1.0, -1.0)
    return Logistic(features, signs, workers=10, penalty=1e-3)


def digits_parity(features: int = 1_000, seed: int = 0) -> Logistic:
    """Whether a handwritten digit is odd, from random features of its pixels, among ten workers.

    Source of the features: A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel
    Machines", 2007.
    """
    data = load_data()
    pixels = torch.flatten(data.train_inputs, 1).double().numpy()
    pixels = (pixels - pixels.mean()) / pixels.std()
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((pixels.shape[1], features)) / _WIDTH
    inputs = np.cos(pixels @ directions + rng.uniform(0, 2 * np.pi, features))
    inputs -= inputs.mean(axis=0)
    signs = np.where(data.train_labels.numpy() % 2 == 1, 1.0, -1.0)
    return Logistic(inputs, signs, workers=10, penalty=1e-3)


def _sigmoid(values: Vector) -> Vector:
    result: Vector = np.exp(-np.logaddexp(0, -values))
    return result
