"""The classes of compressors: what follows from one for the others, and how fast descent is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging.codecs.classes import Constants
from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import (
    Compressor,
    check_constants,
    compressor_of,
    moments,
)

EXACT = 1e-9


@dataclass(frozen=True)
class Weighing:
    """A compressor that multiplies each element by a weight drawn for it: its classes are exact.

    With m = E w and q = E w², E‖C(x)‖² = Σ q x², E⟨C(x), x⟩ = Σ m x², and the worst vector for
    each inequality has a single element; so the best constants are extremes over elements.
    """

    weights: tuple[tuple[float, float], ...]
    """For each element two weights, each drawn half of the time."""

    @property
    def means(self) -> list[float]:
        return [(one + other) / 2 for one, other in self.weights]

    @property
    def squares(self) -> list[float]:
        return [(one**2 + other**2) / 2 for one, other in self.weights]

    @property
    def beta(self) -> float:
        return max(q / m for m, q in zip(self.means, self.squares, strict=True))

    def missed(self, factor: float = 1.0) -> float:
        """The largest E‖λC(x) − x‖² / ‖x‖²."""
        return max(
            factor**2 * q - 2 * factor * m + 1
            for m, q in zip(self.means, self.squares, strict=True)
        )

    def in_b1(self, alpha: float, beta: float) -> bool:
        return min(self.squares) >= alpha - EXACT and self.beta <= beta + EXACT

    def in_b2(self, gamma: float, beta: float) -> bool:
        return min(self.means) >= gamma - EXACT and self.beta <= beta + EXACT

    def in_b3(self, delta: float, factor: float = 1.0) -> bool:
        return self.missed(factor) <= 1 - 1 / delta + EXACT


weights = st.floats(0.01, 3.0)
weighings = st.lists(st.tuples(weights, weights), min_size=1, max_size=6).map(
    lambda pairs: Weighing(tuple(pairs))
)


@given(weighings)
def test_what_follows_from_b1_holds(compressor: Weighing) -> None:
    alpha, beta = min(compressor.squares), compressor.beta
    known = Constants(b1=(alpha, beta))
    implied = known.implied()
    assert implied.b2 == (alpha / beta, beta)
    assert compressor.in_b2(*implied.b2)
    assert known.contraction() == (1 / beta, beta**2 / alpha)
    assert compressor.in_b3(beta**2 / alpha, 1 / beta)


@given(weighings)
def test_what_follows_from_b2_holds(compressor: Weighing) -> None:
    gamma, beta = min(compressor.means), compressor.beta
    known = Constants(b2=(gamma, beta))
    implied = known.implied()
    assert implied.b1 == (gamma**2, beta)
    assert compressor.in_b1(*implied.b1)
    assert known.contraction() == (1 / beta, beta / gamma)
    assert compressor.in_b3(beta / gamma, 1 / beta)


@given(weighings.filter(lambda one: one.missed() < 0.999))
def test_what_follows_from_b3_holds(compressor: Weighing) -> None:
    delta = 1 / (1 - compressor.missed())
    known = Constants(b3=delta)
    implied = known.implied()
    assert implied.b1 == (1 / (4 * delta**2), 2)
    assert implied.b2 == (1 / (2 * delta), 2)
    assert compressor.in_b1(*implied.b1)
    assert compressor.in_b2(*implied.b2)
    assert known.contraction() == (1, delta)


@given(st.lists(st.floats(0, 0.95), min_size=1, max_size=6))
def test_what_follows_from_unbiased_holds(spreads: list[float]) -> None:
    compressor = Weighing(tuple((1 - spread, 1 + spread) for spread in spreads))
    zeta = max(compressor.squares)
    known = Constants(unbiased=zeta)
    implied = known.implied()
    assert implied.b1 == implied.b2 == (1, zeta)
    assert compressor.in_b1(*implied.b1)
    assert compressor.in_b2(*implied.b2)
    assert known.contraction() == (1 / zeta, zeta)
    assert compressor.in_b3(zeta, 1 / zeta)


def test_what_is_known_is_kept_and_the_best_factor_taken() -> None:
    known = Constants(unbiased=2.0, b1=(0.5, 1.5), b2=(0.9, 1.0), b3=3.0)
    assert known.implied() == known
    assert known.contraction() == (1.0, 1.0 / 0.9)
    assert Constants().implied() == Constants()
    assert Constants().contraction() is None


# Gradient descent with compressed gradients, x⁺ = x − ηC(∇f(x)), on f(x) = Σ λ x² / 2.

CURVATURES_V = torch.logspace(-1, 0, 12)
SMOOTH, CONVEX = 1.0, 0.1
"""L and μ: the largest and the smallest curvature."""


def keep_some(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Each element with a chance of 0.4: in B1, B2 and B3."""
    generator = torch.Generator().manual_seed(seed)
    return values * (torch.rand(values.numel(), generator=generator) < 0.4)


def keep_some_twice_as_large(values: torch.Tensor, seed: int) -> torch.Tensor:
    """In B1 and B2, but an element with a weight of 2 errs by all of itself."""
    return 2 * keep_some(values, seed)


def keep_largest(values: torch.Tensor, seed: int) -> torch.Tensor:
    """The three largest of twelve."""
    del seed
    kept = values.abs().topk(3).indices
    return torch.zeros_like(values).index_copy(0, kept, values[kept])


CLASSES: dict[str, tuple[Compressor, Constants, int]] = {
    "some": (keep_some, Constants(b1=(0.4, 1.0), b2=(0.4, 1.0), b3=2.5), 100),
    "some, doubled": (keep_some_twice_as_large, Constants(b1=(1.6, 2.0), b2=(0.8, 2.0)), 100),
    "largest": (keep_largest, Constants(b1=(0.25, 1.0), b2=(0.25, 1.0), b3=4.0), 1),
}
"""A compressor of twelve elements, its classes, and how many runs show what is expected."""
for _name, _runs in {"nearest:3": 1, "int4-block:16": 1, "sign": 1, "dither:2,3,2": 8}.items():
    _codec = codec_named(_name)
    CLASSES[_name] = (compressor_of(_codec), _codec.constants(12), _runs)


def descents(constants: Constants) -> list[tuple[float, float]]:
    """Step size, and what one step leaves of f at most, by each class that is known."""
    found = []
    if constants.b1 is not None:
        alpha, beta = constants.b1
        found.append((1 / (beta * SMOOTH), 1 - alpha / beta**2 * CONVEX / SMOOTH))
    if constants.b2 is not None:
        gamma, beta = constants.b2
        found.append((1 / (beta * SMOOTH), 1 - gamma / beta * CONVEX / SMOOTH))
    contraction = constants.contraction()
    assert contraction is not None
    factor, delta = contraction
    found.append((factor / SMOOTH, 1 - 1 / delta * CONVEX / SMOOTH))
    return found


def height(x_V: torch.Tensor) -> float:
    return float((CURVATURES_V * x_V.square()).sum() / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_compressed_descent_is_as_fast_as_promised(name: str) -> None:
    compress, constants, runs = CLASSES[name]
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        check_constants(constants, compress, torch.randn(12, generator=generator), runs)
    steps = 12
    # One element of the flattest direction alone is the slowest, of all the mix.
    starts = [torch.randn(12, generator=generator), torch.eye(12)[0], torch.ones(12)]
    for start_V in starts:
        for rate, factor in descents(constants):
            left = []
            for run in range(runs):
                x_V = start_V.clone()
                for step in range(steps):
                    x_V -= rate * compress(CURVATURES_V * x_V, 1000 * run + step)
                left.append(height(x_V) / height(start_V))
            mean = sum(left) / runs
            spread = math.sqrt(sum((one - mean) ** 2 for one in left)) / runs
            assert mean <= factor**steps + 4 * spread


def test_an_untrue_constant_is_noticed() -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(1))
    for wrong in (
        Constants(unbiased=3.0),
        Constants(b1=(0.6, 1.0)),
        Constants(b1=(0.4, 0.9)),
        Constants(b2=(0.6, 1.0)),
        Constants(b3=1.5),
    ):
        with pytest.raises(AssertionError):
            check_constants(wrong, keep_some, values, 400)
    found = moments(keep_some, values, 400)
    assert found.size.mean == pytest.approx(0.4, abs=5 * found.size.error)
