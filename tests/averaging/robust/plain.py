"""Robust rules written plainly, one coordinate at a time, in exact fractions where that can be."""

import math
from collections.abc import Sequence
from fractions import Fraction


def lower_median(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """The least number such that it and those below hold at least half of the weight."""
    half = sum(map(Fraction, weights)) / 2
    reached = Fraction(0)
    for number, weight in sorted(zip(numbers, weights, strict=True)):
        reached += Fraction(weight)
        if reached >= half:
            return number
    raise AssertionError("no numbers")


def middle_median(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of the lower median and the upper one, which is the lower one seen from above."""
    lower = lower_median(numbers, weights)
    return lower / 2 - lower_median([-number for number in numbers], weights) / 2


def trimmed_mean(numbers: Sequence[float], weights: Sequence[float], fraction: float) -> float:
    """The mean of what lies between two points of the line of sorted numbers."""
    whole = sum(map(Fraction, weights))
    low, high = Fraction(fraction) * whole, (1 - Fraction(fraction)) * whole
    reached, total = Fraction(0), Fraction(0)
    for number, weight in sorted(zip(numbers, weights, strict=True)):
        before, reached = reached, reached + Fraction(weight)
        total += max(Fraction(0), min(reached, high) - max(before, low)) * Fraction(number)
    return float(total / (high - low))


def centered_clipping(
    vectors: Sequence[Sequence[float]], weights: Sequence[float], radius: float, iterations: int
) -> list[float]:
    """The formula as it stands in the paper, with weights and a radius of its own."""
    center = [middle_median(column, weights) for column in zip(*vectors, strict=True)]
    whole = math.fsum(weights)
    limit = radius * lower_median([math.dist(v, center) for v in vectors], weights)
    for _ in range(iterations):
        move = [0.0] * len(center)
        for vector, weight in zip(vectors, weights, strict=True):
            distance = math.dist(vector, center)
            kept = min(1.0, limit / distance) if distance else 1.0
            for place, (value, middle) in enumerate(zip(vector, center, strict=True)):
                move[place] += weight / whole * kept * (value - middle)
        center = [middle + step for middle, step in zip(center, move, strict=True)]
    return center
