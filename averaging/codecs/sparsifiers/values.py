"""How the values of the elements that are sent travel, at a few bits each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, final

import numpy as np
import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.sparsifiers.bits import fields_size_bytes, pack_fields, unpack_fields
from averaging.codecs.sparsifiers.draws import uniforms

Array = np.ndarray[Any, Any]

FLOAT16_ERROR: Final = 2.0**-11
"""No value changes by more than this share of it, unless it is 2**-29 of the largest, or less."""
TILE_ELEMENTS: Final = 4096
"""Of the codecs that choose within tiles. Source: SparseLoCo (2025); DeMo (2024): 64 × 64."""
_EXPONENTS: Final = (-126, 112)
"""With these, powers of two and all products with finite float16 are finite float32."""


class ValueCoder(ABC):
    """Turns the values of one block into bytes and back, by arithmetic that all machines share."""

    @abstractmethod
    def size_bytes(self, sent: int, length: int) -> int:
        """What so many values take, of a block of so many elements."""

    @abstractmethod
    def encode(self, values: Array, positions: Array, length: int, seed: int) -> Array:
        """The values' bytes.

        Args:
            values: float32, at least one, finite.
            positions: int64, where in the block they stand.
            length: of the block, in elements.
            seed: of the chance that this block may draw on.
        """

    @abstractmethod
    def decode(self, data: Array, positions: Array, length: int) -> Array:
        """The values, float32 and finite.

        Args:
            data: uint8, `size_bytes` of it.

        Raises:
            FrameInvalid: nobody encodes to these bytes.
        """


@final
class Float32Values(ValueCoder):
    """As they are."""

    def size_bytes(self, sent: int, length: int) -> int:
        del length
        return 4 * sent

    def encode(self, values: Array, positions: Array, length: int, seed: int) -> Array:
        del positions, length, seed
        return values.astype("<f4").view(np.uint8)

    def decode(self, data: Array, positions: Array, length: int) -> Array:
        del positions, length
        values = data.copy().view("<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise FrameInvalid("a value is not finite")
        return values


@final
class Float16Values(ValueCoder):
    """In units of a power of two that brings the largest near the end of float16's range.

    So gradients that are tiny as a whole do not vanish, as they would in plain float16.
    """

    def size_bytes(self, sent: int, length: int) -> int:
        del length
        return 1 + 2 * sent

    def encode(self, values: Array, positions: Array, length: int, seed: int) -> Array:
        del positions, length, seed
        lowest, highest = _EXPONENTS
        exponent = int(np.frexp(np.abs(values).max())[1]) - 16
        exponent = min(max(exponent, lowest), highest)
        scaled = torch.from_numpy(values * np.float32(2.0**-exponent)).to(torch.float16)
        # Rounding can lift the largest to 2**16, which is infinity.
        halves = scaled.clamp_(-65504, 65504).numpy().astype("<f2")
        return np.concatenate((np.array([exponent], np.int8).view(np.uint8), halves.view(np.uint8)))

    def decode(self, data: Array, positions: Array, length: int) -> Array:
        del positions, length
        exponent = int(data[:1].view(np.int8)[0])
        if not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
            raise FrameInvalid(f"values in units of 2**{exponent}")
        halves = torch.from_numpy(data[1:].copy().view("<f2").astype(np.float16))
        values: Array = halves.to(torch.float32).numpy()
        if not np.isfinite(values).all():
            raise FrameInvalid("a value is not finite")
        return values * np.float32(2.0**exponent)


@final
class DitheredValues(ValueCoder):
    """Exponential dithering: the sign, and a share of the norm rounded up or down by chance.

    The grid of shares is 0 and the powers base**(1 − levels), …, base**−1, 1. It is computed by
    divisions, never by pow(), whose last bits differ from machine to machine.

    Args:
        base: above 1.
        levels: from 1 to 127.
        infinite_norm: the norm is the largest magnitude; otherwise the Euclidean norm.

    Source: Beznosikov et al., "On Biased Compression for Distributed Learning", section 2.
    """

    def __init__(self, base: float, levels: int, *, infinite_norm: bool) -> None:
        assert base > 1
        assert 1 <= levels <= 127
        self.base = base
        self.levels = levels
        self._infinite_norm = infinite_norm
        shares = [1.0]
        while len(shares) < levels:
            shares.append(shares[-1] / base)
        self._grid = np.array([0.0, *reversed(shares)])
        self._width = 1 + levels.bit_length()

    def size_bytes(self, sent: int, length: int) -> int:
        del length
        return 4 + fields_size_bytes(sent, self._width)

    def encode(self, values: Array, positions: Array, length: int, seed: int) -> Array:
        del length
        magnitudes = np.abs(values).astype(np.float64)
        largest = magnitudes.max()
        norm = largest
        if not self._infinite_norm:
            # Rounded to float32 it must be no less than the largest, and finite.
            norm = np.clip(np.sqrt(magnitudes @ magnitudes), largest, np.finfo(np.float32).max)
        norm = np.float32(norm)
        shares = magnitudes / max(float(norm), np.finfo(np.float64).tiny)
        below = np.minimum(np.searchsorted(self._grid, shares, side="right") - 1, self.levels - 1)
        chances = (shares - self._grid[below]) / (self._grid[below + 1] - self._grid[below])
        fields = below + (uniforms(seed, positions) < chances)
        fields |= (values < 0).astype(np.int64) << (self._width - 1)
        header = np.array([norm], "<f4").view(np.uint8)
        return np.concatenate((header, pack_fields(fields, self._width)))

    def decode(self, data: Array, positions: Array, length: int) -> Array:
        del length
        norm = np.float32(data[:4].copy().view("<f4")[0])
        if not (np.isfinite(norm) and norm >= 0):
            raise FrameInvalid(f"values in units of {norm}")
        fields = unpack_fields(data[4:], positions.size, self._width)
        levels = fields & ((1 << (self._width - 1)) - 1)
        if (levels > self.levels).any():
            raise FrameInvalid(f"a level above {self.levels}")
        values: Array = self._grid.astype(np.float32)[levels] * norm
        return np.where(fields >> (self._width - 1) == 1, -values, values)

    def variance(self, sent: int) -> float:
        """ζ of U(ζ), for so many values."""
        step = float(sent**0.5 * self.base ** (1 - self.levels))
        return (self.base + 1 / self.base + 2) / 4 + step * min(1.0, step)


@final
class TwoBitValues(ValueCoder):
    """The sign, and whether the magnitude is above the mean of its tile's.

    Each tile has two magnitudes, the means of those below and above. They travel as float16 for
    all tiles of the block.

    Source: SparseLoCo (2025); that magnitudes are split at their mean is our choice.
    """

    def __init__(self) -> None:
        self._levels = Float16Values()

    def size_bytes(self, sent: int, length: int) -> int:
        level_count = 2 * _tile_count(length)
        return self._levels.size_bytes(level_count, length) + fields_size_bytes(sent, 2)

    def encode(self, values: Array, positions: Array, length: int, seed: int) -> Array:
        tile_count = _tile_count(length)
        tiles = positions // TILE_ELEMENTS
        magnitudes = np.abs(values).astype(np.float64)
        means = _means(tiles, magnitudes, tile_count)
        above = magnitudes > means[tiles]
        levels = _means(2 * tiles + above, magnitudes, 2 * tile_count).astype(np.float32)
        fields = above | ((values < 0).astype(np.int64) << 1)
        return np.concatenate(
            (self._levels.encode(levels, positions, length, seed), pack_fields(fields, 2))
        )

    def decode(self, data: Array, positions: Array, length: int) -> Array:
        levels_size_bytes = self._levels.size_bytes(2 * _tile_count(length), length)
        levels = self._levels.decode(data[:levels_size_bytes], positions, length)
        if (levels < 0).any():
            raise FrameInvalid("a magnitude below 0")
        fields = unpack_fields(data[levels_size_bytes:], positions.size, 2)
        values: Array = levels[2 * (positions // TILE_ELEMENTS) + (fields & 1)]
        return np.where(fields >> 1 == 1, -values, values)


def _tile_count(length: int) -> int:
    return -(-length // TILE_ELEMENTS)


def _means(groups: Array, numbers: Array, group_count: int) -> Array:
    """The mean of each group's numbers; 0 where it has none."""
    sums = np.bincount(groups, numbers, group_count)
    return sums / np.maximum(np.bincount(groups, minlength=group_count), 1)
