"""LAMB and LARS once more, in plain numpy and float64, written from their formulas alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def norm(array: Array) -> float:
    return math.sqrt(math.fsum((array * array).ravel().tolist()))


def lamb(
    start: Array,
    gradients: list[Array],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    clamp: float,
    debias: bool,
) -> Array:
    """The weights after steps with these gradients; moments are sums over the whole past."""
    weights = start.copy()
    for count in range(1, len(gradients) + 1):
        past = gradients[:count]
        powers = range(count - 1, -1, -1)
        mean = sum(
            ((1 - betas[0]) * betas[0] ** k * g for k, g in zip(powers, past, strict=True)),
            np.zeros_like(start),
        )
        square = sum(
            ((1 - betas[1]) * betas[1] ** k * g**2 for k, g in zip(powers, past, strict=True)),
            np.zeros_like(start),
        )
        update = mean / (np.sqrt(square) + eps) + decay * weights
        length, step = min(norm(weights), clamp), norm(update)
        trust = length / step if length and step else 1.0
        rate = lr
        if debias:
            rate *= math.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count)
        weights = weights - rate * trust * update
    return weights


def lars(
    start: Array,
    gradients: list[Array],
    *,
    lr: float,
    momentum: float,
    decay: float,
    trust: float,
    eps: float,
    scaled: bool,
) -> Array:
    """The weights after steps with these gradients; `scaled` is False for excluded ones."""
    weights, speed = start.copy(), np.zeros_like(start)
    for gradient in gradients:
        update = gradient
        if scaled:
            length, slope = norm(weights), norm(gradient)
            share = trust * length / (slope + decay * length + eps) if length and slope else 1.0
            update = share * (gradient + decay * weights)
        speed = momentum * speed + update
        weights = weights - lr * speed
    return weights
