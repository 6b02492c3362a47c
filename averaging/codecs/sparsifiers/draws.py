"""Chance that is a function of a seed and a counter alone, the same on every machine.

Generators of libraries change from version to version, and who decodes must draw what was drawn by
who encoded; so these few lines are part of the wire.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

SEED_MAX: Final = 2**63 - 1

_WORD: Final = 2**64 - 1
_STEP: Final = 0x9E3779B97F4A7C15
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_ROUNDS: Final = 8
"""Of the Feistel network: with four it is already a permutation that looks random, here it must
also where a half has but two bits."""


def seed_of(seed: int, stream: int) -> int:
    """Another seed, of the stream with this number.

    Source: G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
    """
    mixed = (seed + (stream + 1) * _STEP) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * _MIX[0]) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * _MIX[1]) & _WORD
    return (mixed ^ (mixed >> 31)) & SEED_MAX


def uniforms(seed: int, counters: Array) -> Array:
    """One number from 0 up to, not with, 1 for each counter: float64, in 53 bits."""
    words = _mixed(counters.astype(np.uint64), seed)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
    low_bits = np.uint64(bits - bits // 2)
    high_mask, low_mask = (np.uint64((1 << size) - 1) for size in (bits // 2, int(low_bits)))
    high, low = numbers >> low_bits, numbers & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            high = high ^ (_mixed(low, key) & high_mask)
        else:
            low = low ^ (_mixed(high, key) & low_mask)
    return (high << low_bits) | low


def _mixed(words: Array, seed: int) -> Array:
    """Each counter as 64 bits that show nothing of it."""
    mixed = words * np.uint64(_STEP)
    mixed += np.uint64((_STEP + seed) & _WORD)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed
