"""Draws: even, independent of each other, and the hash that the module says they are."""

from __future__ import annotations

import torch

from averaging.codecs.quantizers.draws import draws
from averaging.codecs.quantizers.sums import sum_of
from averaging.codecs.quantizers.tiles import TILE_ELEMENTS

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


def test_sums_are_right_in_any_length() -> None:
    values = torch.randn(100_003, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3, 16_384, 16_385, 100_003):
        some = values[:count]
        expected = float(some.to(torch.float64).square().sum())
        assert abs(sum_of(some, torch.Tensor.square_) - expected) < 1e-12 * expected
    assert sum_of(torch.full((5,), 3e38), torch.Tensor.square_) > 4.4e77, "no float32 holds it"
