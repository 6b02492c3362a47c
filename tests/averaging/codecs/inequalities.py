"""Checks that a compressor is in the classes that it says it is in, by trying it.

A compressor is any function of values and a seed. What is expected over seeds is estimated from
many of them, with its standard error; a compressor that draws nothing needs one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec

Compressor = Callable[[torch.Tensor, int], torch.Tensor]
"""float32 values, 1-D, and a seed, to as many values."""
ERRORS_ALLOWED = 5.0
"""Standard errors that an estimate may be on the wrong side; seeds are fixed: no test is lucky."""
ROUNDING = 2e-6
"""Relative error of norms that float32 accounts for."""
RARE = 1e-6
"""Of ‖x‖², as squared bias: what few seeds cannot show, such as a tiny element's rare jump up."""


def compressor_of(codec: Codec) -> Compressor:
    """What a codec does to values."""

    def compress(values: torch.Tensor, seed: int) -> torch.Tensor:
        out = torch.full_like(values, math.nan)
        codec.decode(codec.encode(values, seed), out)
        return out

    return compress


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Moments:
    """What a compressor does to one vector x with each seed, all relative to ‖x‖²."""

    bias: float
    """‖mean of C(x) − x‖²: with n seeds, about 1/n of `missed` if C is unbiased."""
    sizes: tuple[float, ...]
    """‖C(x)‖²."""
    inners: tuple[float, ...]
    """⟨C(x), x⟩."""
    misses: tuple[float, ...]
    """‖C(x) − x‖²."""

    @property
    def size(self) -> Estimate:
        """E‖C(x)‖²."""
        return _estimate(self.sizes)

    @property
    def inner(self) -> Estimate:
        """E⟨C(x), x⟩."""
        return _estimate(self.inners)

    @property
    def missed(self) -> Estimate:
        """E‖C(x) − x‖²."""
        return _estimate(self.misses)

    def excess(self, beta: float) -> Estimate:
        """E‖C(x)‖² − β E⟨C(x), x⟩, from pairs: both vary together."""
        pairs = zip(self.sizes, self.inners, strict=True)
        return _estimate([size - beta * inner for size, inner in pairs])


def moments(compress: Compressor, values: torch.Tensor, seeds: int = 1) -> Moments:
    """Try so many seeds on these values, of which one at least is not zero."""
    exact = values.to(torch.float64)
    square = float(exact @ exact)
    total = torch.zeros_like(exact)
    sizes, inners, misses = [], [], []
    for seed in range(seeds):
        out = compress(values, seed).to(torch.float64)
        total += out
        sizes.append(float(out @ out) / square)
        inners.append(float(out @ exact) / square)
        misses.append(float((out - exact) @ (out - exact)) / square)
    off = total / seeds - exact
    return Moments(float(off @ off) / square, tuple(sizes), tuple(inners), tuple(misses))


def check_constants(
    constants: Constants, compress: Compressor, values: torch.Tensor, seeds: int = 1
) -> Moments:
    """Assert each inequality that the constants promise, on one vector."""
    found = moments(compress, values, seeds)
    if constants.unbiased is not None:
        # Of a mean of n, the squared error is 1/n of one's; it is spread over many elements.
        assert found.bias <= 9 * found.missed.mean / seeds + RARE, f"biased: {found}"
        _check_below(found.size, constants.unbiased)
    if constants.b1 is not None:
        alpha, beta = constants.b1
        _check_above(found.size, alpha)
        _check_below(found.excess(beta), 0.0)
    if constants.b2 is not None:
        gamma, beta = constants.b2
        _check_above(found.inner, gamma)
        _check_below(found.excess(beta), 0.0)
    if constants.b3 is not None:
        _check_below(found.missed, 1 - 1 / constants.b3)
    return found


def check_codec(codec: Codec, vectors: Sequence[torch.Tensor], seeds: int = 1) -> list[Moments]:
    """Assert what a codec says of itself, on each vector; that zeros stay zeros, too."""
    compress = compressor_of(codec)
    for values in vectors:
        zeros = torch.zeros_like(values)
        assert torch.equal(compress(zeros, 0), zeros), "C(0) must be 0 in every class"
    return [
        check_constants(codec.constants(values.numel()), compress, values, seeds)
        for values in vectors
    ]


def families(count: int, seed: int = 0) -> Iterator[torch.Tensor]:
    """Vectors of many shapes: bell-shaped, heavy tailed, flat, spiky, of all sizes at once."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=generator)
    evenly = torch.rand(count, generator=generator)
    yield normal
    yield 1e-20 * normal
    yield 1e15 * normal
    yield normal + 3
    yield evenly
    # Laplace, and Student with three degrees of freedom.
    yield -torch.log(evenly + 1e-6) * normal.sign()
    yield normal / torch.randn(3, count, generator=generator).square().mean(0).sqrt()
    yield torch.full((count,), 0.37)
    yield torch.cat([torch.ones(1), torch.zeros(count - 1)])
    yield torch.cat([torch.ones(1), 1e-3 * normal[1:]])
    yield normal.sign()
    yield normal * 2.0 ** (-40 * evenly)
    yield torch.linspace(-1, 1, count)


def worst_missed(
    compress: Compressor, values: torch.Tensor, tries: int, seed: int = 0
) -> tuple[float, torch.Tensor]:
    """Climb, by changing some elements at random, to a vector of which much is missed.

    For compressors that draw nothing; a search finds what a proof may have overlooked.

    Returns:
        ‖C(x) − x‖² / ‖x‖² of the best vector, and the vector.
    """
    generator = torch.Generator().manual_seed(seed)
    best = moments(compress, values).missed.mean
    for _ in range(tries):
        chosen = torch.rand(values.numel(), generator=generator) < 0.2
        change = torch.randn(values.numel(), generator=generator)
        factor = 10.0 ** (-3 * float(torch.rand(1, generator=generator)))
        other = torch.where(chosen, values * (1 + factor * change), values)
        if float(other.abs().max()) == 0:
            continue
        missed = moments(compress, other).missed.mean
        if missed > best:
            best, values = missed, other
    return best, values


def _estimate(samples: Sequence[float]) -> Estimate:
    mean = math.fsum(samples) / len(samples)
    if len(samples) == 1:
        return Estimate(mean, 0.0)
    variance = math.fsum((one - mean) ** 2 for one in samples) / (len(samples) - 1)
    return Estimate(mean, math.sqrt(variance / len(samples)))


def _check_below(estimate: Estimate, limit: float) -> None:
    assert estimate.mean <= limit + _slack(estimate, limit), f"{estimate} is above {limit}"


def _check_above(estimate: Estimate, limit: float) -> None:
    assert estimate.mean >= limit - _slack(estimate, limit), f"{estimate} is below {limit}"


def _slack(estimate: Estimate, limit: float) -> float:
    return ERRORS_ALLOWED * estimate.error + ROUNDING * max(1.0, abs(limit))
