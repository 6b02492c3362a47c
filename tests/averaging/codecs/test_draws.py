"""Draws: even, independent of each other, and those of anyone with the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.draws import SEED_MAX, distinct_positions, draws, seed_of, uniforms
from averaging.codecs.tiles import TILE_ELEMENTS

HALF = 1 << 22
M64, M32 = (1 << 64) - 1, (1 << 32) - 1


def drawn(seed: int, start: int = 0, count: int = TILE_ELEMENTS) -> torch.Tensor:
    """As float64, from −1 to 1."""
    out = torch.empty(count, dtype=torch.int32)
    draws(seed, start, out, torch.empty_like(out))
    assert int(out.min()) >= -HALF
    assert int(out.max()) < HALF
    return (out.to(torch.float64) + 0.5) / HALF


def splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & M64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & M64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & M64
    return value ^ value >> 31


def test_draws_are_a_hash_of_seed_and_place() -> None:
    """In Python's unbounded integers: so torch's 32-bit ones overflow as they should."""
    for seed, tile, place in ((0, 0, 0), (5, 0, 1), (2**63 - 1, 3, 65_535), (12, 7, 4321)):
        out = torch.empty(place + 1, dtype=torch.int32)
        draws(seed, tile * TILE_ELEMENTS, out, torch.empty_like(out))
        value = (splitmix(splitmix(seed) + tile) ^ splitmix(place)) & M32
        value = value * 0x7FEB352D & M32
        value = (value ^ value >> 15) * 0x846CA68B & M32
        signed = value - (1 << 32) if value >> 31 else value
        assert int(out[-1]) == signed >> 9


def test_draws_are_even() -> None:
    for seed, start in ((0, 0), (1, 0), (2**62, 9 * TILE_ELEMENTS)):
        sample = drawn(seed, start)
        counts = torch.histc(sample, bins=64, min=-1, max=1)
        expected = TILE_ELEMENTS / 64
        # χ² with 63 degrees of freedom: 63 ± 11.
        assert 20 < float(((counts - expected) ** 2).sum() / expected) < 120
        # Low bits, too: they decide about elements just at a level.
        low = ((sample + 1) * HALF).to(torch.int64) & 63
        counts = torch.bincount(low, minlength=64).to(torch.float64)
        assert 20 < float(((counts - expected) ** 2).sum() / expected) < 120


def test_draws_do_not_tell_of_each_other() -> None:
    """Of neighbors, of tiles, and of seeds, far apart or one bit apart."""
    first = drawn(0)
    others = [drawn(0, TILE_ELEMENTS), drawn(1), drawn(2), drawn(2**31), drawn(2**62), -first]
    others += [first.roll(shift) for shift in (1, 2, 64, 256, 4096)]
    for kind in (lambda x: x, torch.abs, torch.square):
        one = kind(first)
        correlations = [float(torch.corrcoef(torch.stack([one, kind(x)]))[0, 1]) for x in others]
        mirrored = correlations.pop(5)
        assert abs(mirrored) > 0.99, "the check sees what there is to see"
        assert max(map(abs, correlations)) < 5 / TILE_ELEMENTS**0.5


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


@pytest.mark.slow
@pytest.mark.parametrize(("drawn", "count"), [(1, 3), (3, 10), (5, 17), (60, 1000)])
def test_each_position_and_each_pair_is_drawn_as_often(drawn: int, count: int) -> None:
    tries = 600
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
