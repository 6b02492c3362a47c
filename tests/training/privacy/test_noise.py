"""Noise: its distribution, its shares, and who was drawn."""

from __future__ import annotations

import random
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from training.privacy.noise import NoiseShares, secret_normals, secret_uniforms


def chance(seed: int) -> random.Random:
    return random.Random(seed)


def test_noise_has_the_normal_distribution() -> None:
    numbers = secret_normals(200_000, chance(0).randbytes)
    assert stats.kstest(numbers, "norm").pvalue > 0.01
    # A wrong deviation of one in a hundred would be seen.
    assert stats.kstest(1.01 * numbers, "norm").pvalue < 0.01


def test_uniforms_are_between_their_bounds_even_at_the_ends() -> None:
    for byte in (b"\x00", b"\xff"):
        numbers = secret_uniforms(2, lambda count, byte=byte: byte * count)
        assert np.all((numbers > 0) & (numbers < 1))
        assert np.all(np.isfinite(secret_normals(2, lambda count, byte=byte: byte * count)))
    assert secret_uniforms(0).shape == (0,)


def test_noise_of_the_system_differs_each_time() -> None:
    assert not np.array_equal(secret_normals(4), secret_normals(4))


@pytest.mark.parametrize(("peers", "drops"), [(1, 0), (4, 0), (4, 1), (16, 5)])
def test_a_sum_of_those_who_are_left_has_at_least_the_stated_noise(peers: int, drops: int) -> None:
    shares = NoiseShares(peers=peers, tolerated_drops=drops)
    for present in range(peers - drops, peers + 1):
        variance = present * shares.deviation(3.0) ** 2
        assert variance >= 9.0 * (1 - 1e-12)
        assert shares.effective(3.0, present) == 3.0
    # As many as are needed have just the stated noise, and one fewer has less: it is told.
    assert shares.needed * shares.deviation(3.0) ** 2 == pytest.approx(9.0)
    if shares.needed > 1:
        told = shares.effective(3.0, shares.needed - 1)
        assert told == pytest.approx(sqrt((shares.needed - 1) * shares.deviation(3.0) ** 2))
        assert told < 3.0


def test_shares_sum_to_the_whole_in_distribution() -> None:
    shares = NoiseShares(peers=5, tolerated_drops=2)
    entropy = chance(1).randbytes
    left = 3
    total = sum(shares.deviation(2.0) * secret_normals(50_000, entropy) for _ in range(left))
    assert stats.kstest(total, "norm", args=(0.0, 2.0)).pvalue > 0.01


@pytest.mark.parametrize(("peers", "drops"), [(0, 0), (3, 3), (3, -1)])
def test_somebody_has_to_bring_noise(peers: int, drops: int) -> None:
    with pytest.raises(ValueError, match="tolerated_drops < peers"):
        NoiseShares(peers=peers, tolerated_drops=drops)
