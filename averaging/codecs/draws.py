"""Chance that is a function of a seed and a place alone: the same on every machine and device.

Generators of libraries change from version to version, and who decodes may have to draw what was
drawn by who encoded; so these few lines are part of the wire. All rest on one hash of 64 bits, the
finalizer of splitmix64.

Source: G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch

from averaging.codecs.tiles import TILE_ELEMENTS

Array = np.ndarray[Any, Any]

SEED_MAX: Final = 2**63 - 1
DRAW_BITS: Final = 23
"""A draw is one of 2**23 numbers, as many as a float32 has between two powers of two."""
_MASK_64: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
"""Odd multipliers that mix well: C. Wellons, "Prospecting for Hash Functions", 2018."""
_ROUNDS: Final = 8
"""Of the Feistel network: with four it is already a permutation that looks random, here it must
also where a half has but two bits."""


def draws(seed: int, start: int, out: torch.Tensor, room: torch.Tensor) -> None:
    """Overwrite out with numbers drawn evenly from −2**22 to 2**22 − 1.

    Each tile has a key, hashed from seed and tile. The hash of the place in the tile, which is a
    constant table, is mixed with it by two multiplications of 32 bits, which all devices do alike.

    Args:
        start: the tile's first element.
        out: int32, 1-D, of at most a tile.
        room: as large, and overwritten.
    """
    key = _signed_32(key_of_tile(seed, start))
    torch.bitwise_xor(hashes_of_places(out.device)[: out.numel()], key, out=out)
    out.mul_(_FIRST)
    # torch shifts signs in; the mask takes them out again.
    torch.bitwise_right_shift(out, 15, out=room)
    out.bitwise_xor_(room.bitwise_and_(0x1FFFF))
    out.mul_(_SECOND)
    out.bitwise_right_shift_(32 - DRAW_BITS)


def key_of_tile(seed: int, start: int) -> int:
    """What the hashes of a tile's places are mixed with: 32 bits.

    Args:
        start: the tile's first element.
    """
    return int(_hashed(_hashed(seed) + start // TILE_ELEMENTS)) & 0xFFFFFFFF


def seed_of(seed: int, stream: int) -> int:
    """Another seed, of the stream with this number."""
    return int(_hashed(seed + stream * _STEP)) & SEED_MAX


def uniforms(seed: int, counters: Array) -> Array:
    """One number from 0 up to, not with, 1 for each counter: float64, in 53 bits."""
    return (_keyed(counters.astype(np.uint64), seed) >> 11).astype(np.float64) * 2.0**-53


def distinct_positions(seed: int, drawn: int, count: int) -> Array:
    """So many different ones of the numbers below count, in the order drawn, as int64.

    They are what a permutation of all numbers, keyed by the seed, makes of the first ones: so the
    work is that of those drawn, whatever the count.

    Source: J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", 2002: a Feistel
    network over a power of two, walked on until the number is below count.
    """
    assert 0 < drawn <= count
    bits = (count - 1).bit_length()
    keys = [seed_of(seed, number) for number in range(_ROUNDS)]
    positions = _permuted(np.arange(drawn, dtype=np.uint64), bits, keys)
    outside = np.flatnonzero(positions >= count)
    while outside.size:
        positions[outside] = _permuted(positions[outside], bits, keys)
        outside = outside[positions[outside] >= count]
    return positions.astype(np.int64)


def _permuted(numbers: Array, bits: int, keys: list[int]) -> Array:
    """Each of the numbers below 2**bits as another one: its halves change each other in turns."""
    low_bits = bits - bits // 2
    high_mask, low_mask = (1 << bits // 2) - 1, (1 << low_bits) - 1
    high, low = numbers >> low_bits, numbers & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            high = high ^ (_keyed(low, key) & high_mask)
        else:
            low = low ^ (_keyed(high, key) & low_mask)
    return (high << low_bits) | low


def _keyed(words: Array, seed: int) -> Array:
    """Each of the uint64 numbers hashed, as the seed says."""
    hashed: Array = _hashed(words * _STEP + seed)
    return hashed


def _hashed(value: Any) -> Any:
    """64 bits that show nothing of the value, an int or uint64 numbers."""
    value = _low_64(value + _STEP)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value ^= value >> shift
        value *= factor
        value = _low_64(value)
    value ^= value >> 31
    return value


def _low_64(value: Any) -> Any:
    """An int as uint64 numbers are, which wrap by themselves."""
    return value & _MASK_64 if isinstance(value, int) else value


@cache
def hashes_of_places(device: torch.device) -> torch.Tensor:
    """A hash of each place in a tile: shape (TILE_ELEMENTS,), int32."""
    hashes = _hashed(np.arange(TILE_ELEMENTS, dtype=np.uint64))
    return torch.from_numpy(hashes.astype(np.uint32).view(np.int32)).to(device)


def _signed_32(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
