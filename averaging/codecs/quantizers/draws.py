"""Random numbers that are the same on every device: a hash of the seed and the element's place.

Each tile of elements has a key of its own, hashed from seed and tile. The 32-bit hash of the
place in the tile, which is a constant table, is mixed with it by two multiplications, which all
devices do alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch

from averaging.codecs.quantizers.tiles import TILE_ELEMENTS

DRAW_BITS: Final = 23
"""A draw is one of 2**23 numbers, as many as a float32 has between two powers of two."""
_MASK_64: Final = (1 << 64) - 1
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
"""Odd multipliers that mix well: C. Wellons, "Prospecting for Hash Functions", 2018."""


def draws(seed: int, start: int, out: torch.Tensor, room: torch.Tensor) -> None:
    """Overwrite out with numbers drawn evenly from −2**22 to 2**22 − 1.

    Args:
        start: the tile's first element.
        out: int32, 1-D, of at most a tile.
        room: as large, and overwritten.
    """
    key = _mixed_64(_mixed_64(seed) + start // TILE_ELEMENTS)
    torch.bitwise_xor(_places(out.device)[: out.numel()], _signed_32(key), out=out)
    out.mul_(_FIRST)
    # torch shifts signs in; the mask takes them out again.
    torch.bitwise_right_shift(out, 15, out=room)
    out.bitwise_xor_(room.bitwise_and_(0x1FFFF))
    out.mul_(_SECOND)
    out.bitwise_right_shift_(32 - DRAW_BITS)


@cache
def _places(device: torch.device) -> torch.Tensor:
    """A hash of each place in a tile: shape (TILE_ELEMENTS,), int32."""
    hashes = _mixed_64(np.arange(TILE_ELEMENTS, dtype=np.uint64))
    return torch.from_numpy(hashes.astype(np.uint32).view(np.int32)).to(device)


def _signed_32(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _mixed_64(value: Any) -> Any:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014), of an int or uint64 numbers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
