"""How much privacy noisy sums have cost: Rényi differential privacy of the sampled Gaussian.

One step draws each example by itself with probability q, the rate; clips what each drawn one adds
to length C; sums; and adds normal noise of deviation σ C, where σ is the noise multiplier. Two data
sets are neighbours when one has one example more than the other. The step's Rényi divergence of
order α is bounded, those of several steps add up at each order, and the smallest ε over all orders
is what is told.

Source: I. Mironov, K. Talwar, L. Zhang, Rényi Differential Privacy of the Sampled Gaussian
Mechanism (2019), section 3.3; from Rényi to (ε, δ): C. Canonne, G. Kamath, T. Steinke, The Discrete
Gaussian for Differential Privacy (2020), proposition 12.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, gammasgn, log_ndtr

Floats = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0),
)
"""α: dense where ε above 1 is decided, and up to where it is as small as a hundredth."""
_LOG_TERM_MIN = -30.0
"""Terms of a series that are smaller than e to this are left out."""
_TERMS_FIRST, _TERMS_MAX = 64, 1 << 20
_MULTIPLIER_TOLERANCE = 1e-4
"""Relative; what is returned is never too small."""
_MULTIPLIER_MAX = 1e6


def sampled_gaussian(
    *, rate: float, noise_multiplier: float, orders: Sequence[float] = ORDERS
) -> Floats:
    """The Rényi divergence of one step at each order.

    Args:
        rate: q, the probability with which each example is drawn; 1 draws all.
        noise_multiplier: σ, the deviation of the noise in units of the clipping length.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the sampling rate must be between 0 and 1, not {rate}")
    if not noise_multiplier >= 0:
        raise ValueError(f"the noise multiplier must be at least 0, not {noise_multiplier}")
    if any(order <= 1 for order in orders):
        raise ValueError("orders must be above 1")
    if rate == 0:
        return np.zeros(len(orders))
    if noise_multiplier == 0:
        return np.full(len(orders), np.inf)
    if rate == 1:
        return np.asarray(orders) / (2 * noise_multiplier**2)
    moments = [_log_moment(rate, noise_multiplier, order) for order in orders]
    # Rounding may leave a tiny negative number, where a divergence has none.
    return np.asarray(np.maximum(moments, 0) / (np.asarray(orders) - 1))


def epsilon_at(divergences: Floats, *, delta: float, orders: Sequence[float] = ORDERS) -> float:
    """The smallest ε such that steps with these divergences together are (ε, δ)-private.

    Raises:
        ValueError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be above 0 and below 1, not {delta}")
    if not np.any(divergences):
        return 0.0
    alpha = np.asarray(orders)
    epsilons = divergences + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(0.0, float(np.min(epsilons)))


def epsilon_of(*, rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """What so many steps cost."""
    return epsilon_at(steps * step_divergences(rate, noise_multiplier), delta=delta)


@functools.lru_cache(maxsize=64)
def noise_multiplier_for(*, epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The smallest σ with which so many steps cost at most ε, to four digits, never below it.

    Raises:
        ValueError: an argument is out of range, or no noise is enough.
    """
    if not epsilon > 0 or steps < 1:
        raise ValueError(f"need epsilon > 0 and at least 1 step, not {epsilon} and {steps}")

    def costs(multiplier: float) -> float:
        divergences = sampled_gaussian(rate=rate, noise_multiplier=multiplier)
        return epsilon_at(steps * divergences, delta=delta)

    low, high = 0.0, 1.0
    while costs(high) > epsilon:
        low, high = high, 2 * high
        if high > _MULTIPLIER_MAX:
            raise ValueError(
                f"no noise gives epsilon {epsilon} at delta {delta} with these orders; "
                "ask for a larger epsilon or delta"
            )
    while high - low > _MULTIPLIER_TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if costs(middle) > epsilon else (low, middle)
    return high


@functools.lru_cache(maxsize=256)
def step_divergences(rate: float, noise_multiplier: float) -> Floats:
    """As sampled_gaussian() at our orders; kept, since a run asks for the same again and again."""
    divergences = sampled_gaussian(rate=rate, noise_multiplier=noise_multiplier)
    divergences.flags.writeable = False
    return divergences


class Accountant:
    """Steps of one mechanism after another, and what they cost together."""

    def __init__(self) -> None:
        self._counts: dict[tuple[float, float], int] = {}

    @property
    def steps(self) -> int:
        """How many were counted."""
        return sum(self._counts.values())

    @property
    def counts(self) -> dict[tuple[float, float], int]:
        """How many steps of each rate and noise multiplier; a copy."""
        return dict(self._counts)

    def add(self, *, rate: float, noise_multiplier: float, count: int = 1) -> None:
        """Count steps; a negative count takes back what was counted."""
        key = (rate, noise_multiplier)
        left = self._counts.get(key, 0) + count
        if left < 0:
            raise ValueError("more steps are taken back than were counted")
        self._counts[key] = left

    def copy(self) -> Accountant:
        """Another one that has counted the same."""
        other = Accountant()
        other._counts = dict(self._counts)
        return other

    def epsilon(self, delta: float) -> float:
        """What all steps cost; their divergences add up at each order."""
        total = np.zeros(len(ORDERS))
        for (rate, multiplier), count in sorted(self._counts.items()):
            if count:
                total = total + count * step_divergences(rate, multiplier)
        return epsilon_at(total, delta=delta)


def _log_moment(rate: float, multiplier: float, order: float) -> float:
    """log A(α), of which the divergence is 1 / (α − 1)."""
    if order == int(order):
        return _log_moment_whole(rate, multiplier, int(order))
    count = _TERMS_FIRST
    while True:
        signs, logs = _terms(rate, multiplier, order, count)
        if np.max(logs[:, -1]) < _LOG_TERM_MIN or count >= _TERMS_MAX:
            return _log_sum(logs, signs)
        count *= 4


def _log_moment_whole(rate: float, multiplier: float, order: int) -> float:
    """For whole α, a binomial sum."""
    k = np.arange(order + 1)
    logs = (
        _log_binomial(order, k)
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + (k * k - k) / (2 * multiplier**2)
    )
    return _log_sum(logs, 1.0)


def _terms(
    rate: float, multiplier: float, order: float, count: int
) -> tuple[npt.NDArray[Any], Floats]:
    """For fractional α: signs and logarithms of the first terms of two series, one in each row.

    The integral over the outputs is cut at z₀, where both densities are alike, and each half is
    expanded by the binomial series that converges there.
    """
    i = np.arange(count, dtype=np.float64)
    j = order - i
    log_q, log_rest = math.log(rate), math.log1p(-rate)
    cut = multiplier**2 * (log_rest - log_q) + 0.5
    twice = 2 * multiplier**2
    binomials = _log_binomial(order, i)
    below = (
        i * log_q
        + j * log_rest
        + (i * i - i) / twice
        + np.asarray(log_ndtr((cut - i) / multiplier))
    )
    above = (
        j * log_q
        + i * log_rest
        + (j * j - j) / twice
        + np.asarray(log_ndtr((j - cut) / multiplier))
    )
    return np.asarray(gammasgn(j + 1)), np.stack([binomials + below, binomials + above])


def _log_sum(logs: Floats, signs: npt.NDArray[Any] | float) -> float:
    """The logarithm of a sum of numbers that are given by logarithm and sign."""
    largest = float(np.max(logs))
    return largest + math.log(float(np.sum(signs * np.exp(logs - largest))))


def _log_binomial(order: float, k: npt.NDArray[Any]) -> Floats:
    """log |α over k|, for any real α."""
    return np.asarray(gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1))
