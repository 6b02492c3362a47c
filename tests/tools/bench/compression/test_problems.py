"""The convex problems: gradients, minima, smoothness, and the step that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench.compression.descent import descend
from tools.bench.compression.problems import (
    Logistic,
    Problem,
    ThreeWorkers,
    digits_parity,
    synthetic,
)


def small() -> Logistic:
    rng = np.random.default_rng(1)
    signs = np.where(rng.random(31) < 0.5, 1.0, -1.0)
    return Logistic(rng.standard_normal((31, 4)), signs, workers=3, penalty=0.1)


@pytest.mark.parametrize("problem", [small(), ThreeWorkers()])
def test_gradients_are_those_of_the_loss(problem: Problem) -> None:
    size = len(problem.start())
    point = np.random.default_rng(2).standard_normal(size)
    mean = np.mean([problem.gradient(point, worker) for worker in range(problem.workers)], axis=0)
    for axis in np.eye(size):
        slope = (problem.loss(point + 1e-5 * axis) - problem.loss(point - 1e-5 * axis)) / 2e-5
        assert mean @ axis == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("problem", [small(), ThreeWorkers()])
def test_smoothness_bounds_how_gradients_change(problem: Problem) -> None:
    rng = np.random.default_rng(3)
    size = len(problem.start())
    for _ in range(20):
        first, second = rng.standard_normal((2, size))
        change = np.mean(
            [
                problem.gradient(first, worker) - problem.gradient(second, worker)
                for worker in range(problem.workers)
            ],
            axis=0,
        )
        most = problem.smoothness * np.linalg.norm(first - second)
        assert np.linalg.norm(change) <= most * (1 + 1e-9)


def test_the_least_value_is_reached_and_not_passed() -> None:
    problem = small()
    places = descend(problem, "dense", "none", rate=1 / problem.smoothness, steps=400, looks=())
    # Steps are float32.
    assert abs(places[-1].excess) < 1e-12


def test_problems_are_the_same_each_time() -> None:
    assert synthetic().lowest == synthetic().lowest
    assert digits_parity(20).smoothness == digits_parity(20).smoothness
    assert len(digits_parity(20).start()) == 20


def test_descent_ends_when_it_is_near_enough() -> None:
    problem = small()
    rate = 1 / problem.smoothness
    places = descend(problem, "dense", "none", rate=rate, steps=400, looks=range(400), enough=1e-3)
    assert places[-1].excess <= 1e-3 < places[-2].excess
    assert places[-1].bits == 32 * 4 * places[-1].step
