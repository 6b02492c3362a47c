"""Symbols of up to 8 bits packed in as few as they need, a tile at a time.

A width is written as a sum of 8, 4, 2 and 1. Each part of a tile stands apart: with v bits a
part, 8 / v rows of one length lie on top of each other in the bytes, so that packing is adding
rows. What the last row lacks is zero.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.tiles import tiles

# Chunks of a round have one or two sizes.
_PLACES_KEPT_MAX: Final = 64


def width_of(symbol_count: int) -> int:
    """Bits that tell so many symbols apart, at least 1."""
    return max(1, (symbol_count - 1).bit_length())


@lru_cache(_PLACES_KEPT_MAX)
def packed_bytes(count: int, width: int) -> int:
    """What so many symbols take, tiles apart."""
    return sum(_tile_bytes(stop - start, width) for start, stop in tiles(count))


@lru_cache(_PLACES_KEPT_MAX)
def tile_places(count: int, width: int) -> tuple[tuple[slice, slice], ...]:
    """For each tile, which elements it holds and where its bytes lie behind the header."""
    begin, places = 0, []
    for start, stop in tiles(count):
        end = begin + _tile_bytes(stop - start, width)
        places.append((slice(start, stop), slice(begin, end)))
        begin = end
    return tuple(places)


def packed(symbols: torch.Tensor, width: int) -> torch.Tensor:
    """Any number of symbols packed: uint8, of `packed_bytes`."""
    out = torch.empty(packed_bytes(symbols.numel(), width), dtype=torch.uint8, device="cpu")
    for part, place in tile_places(symbols.numel(), width):
        pack(symbols[part], width, out[place])
    return out


def unpacked(data: torch.Tensor, width: int, symbols: torch.Tensor) -> torch.Tensor:
    """Overwrite symbols, of any number, and return them; otherwise as `unpack`."""
    for part, place in tile_places(symbols.numel(), width):
        unpack(data[place], width, symbols[part])
    return symbols


def pack(symbols: torch.Tensor, width: int, out: torch.Tensor) -> None:
    """Overwrite out with one tile of symbols.

    Args:
        symbols: uint8, 1-D, each below 2**width.
        out: uint8, of the tile's bytes.
    """
    count, begin = symbols.numel(), 0
    for shift, bits in _parts(width):
        rows, per_byte = _rows(count, bits), 8 // bits
        part = symbols if bits == width else (symbols >> shift).bitwise_and_((1 << bits) - 1)
        if rows * per_byte > count:
            part = torch.cat([part, part.new_zeros(rows * per_byte - count)])
        # The upper half of the rows onto the lower half, until one row is left.
        while per_byte > 1:
            per_byte //= 2
            half = rows * per_byte
            part = torch.add(part[:half], part[half:], alpha=1 << (bits * per_byte))
        out[begin : begin + rows].copy_(part)
        begin += rows


def unpack(packed: torch.Tensor, width: int, symbols: torch.Tensor) -> None:
    """Overwrite symbols, uint8, with those of one tile.

    Raises:
        FrameInvalid: bits that belong to no symbol are set.
    """
    if width == 8:
        symbols.copy_(packed)
        return
    count, begin = symbols.numel(), 0
    symbols.zero_()
    for shift, bits in _parts(width):
        rows = _rows(count, bits)
        # All rows in one call: calls are what takes the time here.
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        part = torch.bitwise_right_shift(packed[begin : begin + rows], shifts[:, None]).view(-1)
        part &= (1 << bits) - 1
        if rows * (8 // bits) > count and bool(part[count:].any()):
            raise FrameInvalid("bits behind the last element are set")
        torch.add(symbols, part[:count], alpha=1 << shift, out=symbols)
        begin += rows


def _parts(width: int) -> list[tuple[int, int]]:
    """Shift and size of the parts of a symbol."""
    shift, parts = 0, []
    for bits in (8, 4, 2, 1):
        if width & bits:
            parts.append((shift, bits))
            shift += bits
    return parts


def _rows(count: int, bits: int) -> int:
    per_byte = 8 // bits
    return (count + per_byte - 1) // per_byte


def _tile_bytes(count: int, width: int) -> int:
    return sum(_rows(count, bits) for _, bits in _parts(width))
