"""Draws are those of anyone with the seed, and fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.sparsifiers.draws import SEED_MAX, distinct_positions, seed_of, uniforms


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, SEED_MAX), count=st.integers(1, 3000), data=st.data())
def test_positions_are_distinct_and_in_range(seed: int, count: int, data: st.DataObject) -> None:
    drawn = data.draw(st.integers(1, count))
    positions = distinct_positions(seed, drawn, count)
    assert positions.shape == (drawn,)
    assert len(set(positions.tolist())) == drawn
    assert positions.min() >= 0
    assert positions.max() < count


def test_draws_stay_what_they_are() -> None:
    # They are part of the wire: a frame of an older release decodes to the same.
    # The first number of SplitMix64 for the seed 0, as everybody has it, without its sign.
    assert seed_of(0, 0) == 0xE220A8397B1DCDAF & SEED_MAX
    assert distinct_positions(7, 5, 1000).tolist() == [707, 639, 467, 633, 494]
    assert uniforms(7, np.arange(2)).tolist() == [0.3898297483912715, 0.01678829452815611]


def test_uniform_draws_fill_the_unit_interval() -> None:
    numbers = np.sort(uniforms(3, np.arange(100_000)))
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    # Kolmogorov and Smirnov: more than this happens once in a thousand times.
    assert np.abs(numbers - np.linspace(0, 1, 100_000)).max() < 1.95 / 100_000**0.5


@pytest.mark.parametrize(("drawn", "count"), [(1, 3), (3, 10), (5, 17), (60, 1000)])
def test_each_position_and_each_pair_is_drawn_as_often(drawn: int, count: int) -> None:
    tries = 1000
    chosen = np.zeros((tries, count))
    for seed in range(tries):
        chosen[seed, distinct_positions(seed, drawn, count)] = 1
    share = drawn / count
    deviation = (share * (1 - share) / tries) ** 0.5
    assert np.abs(chosen.mean(0) - share).max() < 5 * deviation
    if drawn > 1:
        pairs = chosen[:, :10].T @ chosen[:, :10] / tries
        expected = share * (drawn - 1) / (count - 1)
        np.fill_diagonal(pairs, expected)
        assert np.abs(pairs - expected).max() < 5 * (expected / tries) ** 0.5
