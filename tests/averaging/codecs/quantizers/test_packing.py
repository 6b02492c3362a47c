"""Packing small integers in bits, against a plain slow version."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.quantizers.packing import (
    pack,
    packed_bytes,
    tile_places,
    unpack,
    width_of,
)


def slowly_packed(symbols: list[int], width: int) -> bytes:
    """As the module's first words say, bit by bit."""
    packed, shift = b"", 0
    for bits in (8, 4, 2, 1):
        if not width & bits:
            continue
        rows = -(-len(symbols) // (8 // bits))
        part = bytearray(rows)
        for index, symbol in enumerate(symbols):
            value = symbol >> shift & ((1 << bits) - 1)
            part[index % rows] |= value << (bits * (index // rows))
        packed, shift = packed + bytes(part), shift + bits
    return packed


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_packing_is_as_slow_packing(width: int, numbers: list[int]) -> None:
    symbols = [number & ((1 << width) - 1) for number in numbers]
    given_symbols = torch.tensor(symbols, dtype=torch.uint8)
    out = torch.full((packed_bytes(len(symbols), width),), 255, dtype=torch.uint8)
    pack(given_symbols, width, out)
    assert bytes(out.tolist()) == slowly_packed(symbols, width)
    back = torch.full((len(symbols),), 255, dtype=torch.uint8)
    unpack(out, width, back)
    assert back.tolist() == symbols


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7])
def test_bits_of_no_symbol_must_be_zero(width: int) -> None:
    symbols = torch.zeros(9, dtype=torch.uint8)
    packed = torch.zeros(packed_bytes(9, width), dtype=torch.uint8)
    spare = 0
    for place in range(8 * packed.numel()):
        wrong = packed.clone()
        wrong[place // 8] = 1 << (place % 8)
        try:
            unpack(wrong, width, symbols)
        except FrameInvalid:
            spare += 1
    assert spare == 8 * packed.numel() - 9 * width


def test_tiles_lie_one_behind_the_other() -> None:
    for width in range(1, 9):
        end_of_elements = end_of_bytes = 0
        for part, place in tile_places(200_001, width):
            assert (part.start, place.start) == (end_of_elements, end_of_bytes)
            end_of_elements, end_of_bytes = part.stop, place.stop
        assert end_of_elements == 200_001
        assert end_of_bytes == packed_bytes(200_001, width)


def test_width_is_what_symbols_need() -> None:
    assert [width_of(count) for count in (1, 2, 3, 4, 5, 8, 9, 255, 256)] == [
        *(1, 1, 2, 2, 3, 3, 4, 8, 8)
    ]
