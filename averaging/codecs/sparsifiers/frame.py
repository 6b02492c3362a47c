"""A sparse vector as bytes: for each block of it, which elements are sent, and their values.

A block is 131 072 elements, the longest run that averaging ever encodes; longer vectors are
several. It holds, little endian: the elements sent (24 bits) and the width of the gaps' rests
(8 bits); the bytes of the marks (16 bits); the marks; the rests; the values. One that sends nothing
is four zero bytes. `bits` says what marks and rests are.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.sparsifiers.bits import (
    WIDTH_MAX,
    fields_size_bytes,
    marks_size_bytes_max,
    rice_bits_max,
    rice_pack,
    rice_unpack,
)
from averaging.codecs.sparsifiers.draws import seed_of
from averaging.codecs.sparsifiers.values import ValueCoder

Array = np.ndarray[Any, Any]

BLOCK_ELEMENTS: Final = 2**17
_HEAD: Final = struct.Struct("<I")
_MARKS: Final = struct.Struct("<H")


def write_frame(
    values: torch.Tensor, positions: torch.Tensor, coder: ValueCoder, seed: int
) -> torch.Tensor:
    """The frame of the elements of values that stand at these positions.

    Args:
        values: float32, 1-D, on any device.
        positions: int64, rising, on the same.
    """
    sent = values[positions].cpu().numpy()
    places = positions.cpu().numpy()
    starts = range(0, values.numel(), BLOCK_ELEMENTS)
    cuts = [*np.searchsorted(places, starts).tolist(), places.size]
    parts = []
    for number, start in enumerate(starts):
        chosen = slice(cuts[number], cuts[number + 1])
        length = min(BLOCK_ELEMENTS, values.numel() - start)
        parts += _block(sent[chosen], places[chosen] - start, length, coder, seed_of(seed, number))
    return torch.from_numpy(np.concatenate(parts))


def _block(
    values: Array, positions: Array, length: int, coder: ValueCoder, seed: int
) -> list[Array]:
    if not positions.size:
        return [_bytes(_HEAD.pack(0))]
    width, marks, rests = rice_pack(positions)
    head = _HEAD.pack(positions.size | width << 24) + _MARKS.pack(marks.size)
    return [_bytes(head), marks, rests, coder.encode(values, positions, length, seed)]


def _bytes(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)


def read_frame(frame: torch.Tensor, out: torch.Tensor, coder: ValueCoder, sent_max: int) -> None:
    """Overwrite out, on any device, with the frame's values, and 0 where it has none.

    What is allocated on the way is a few bytes for each element of one block.

    Args:
        sent_max: elements that a frame for this out may have at most.

    Raises:
        FrameInvalid: it is no such frame.
    """
    out.zero_()
    rest: Array = frame.numpy()
    for start in range(0, out.numel(), BLOCK_ELEMENTS):
        part = out[start : start + BLOCK_ELEMENTS]
        head, rest = _taken(rest, _HEAD.size)
        sent, width = (number := _HEAD.unpack(head.data)[0]) & 0xFFFFFF, number >> 24
        sent_max -= sent
        if sent > part.numel() or sent_max < 0 or width > (WIDTH_MAX if sent else 0):
            raise FrameInvalid(f"{sent} elements sent of {part.numel()}, rests of {width} bits")
        if sent:
            rest = _read_block(rest, part, sent, width, coder)
    if rest.size:
        raise FrameInvalid(f"{rest.size} bytes behind the last block")


def _read_block(rest: Array, part: torch.Tensor, sent: int, width: int, coder: ValueCoder) -> Array:
    """Write one block's values, and return what stands behind it."""
    length = part.numel()
    data, rest = _taken(rest, _MARKS.size)
    marks_size_bytes = _MARKS.unpack(data.data)[0]
    if not 0 < marks_size_bytes <= marks_size_bytes_max(sent, width, length):
        raise FrameInvalid(f"{marks_size_bytes} bytes mark {sent} positions of {length}")
    marks, rest = _taken(rest, marks_size_bytes)
    rests, rest = _taken(rest, fields_size_bytes(sent, width))
    data, rest = _taken(rest, coder.size_bytes(sent, length))
    positions = rice_unpack(sent, width, marks, rests, length)
    values = torch.from_numpy(coder.decode(data, positions, length))
    part[torch.from_numpy(positions).to(part.device)] = values.to(part.device)
    return rest


def _taken(rest: Array, size_bytes: int) -> tuple[Array, Array]:
    """So many bytes, and those behind them."""
    if rest.size < size_bytes:
        raise FrameInvalid(f"{rest.size} bytes are left where {size_bytes} were due")
    return rest[:size_bytes], rest[size_bytes:]


def frame_size_limit_bytes(count: int, sent_max: int, coder: ValueCoder) -> int:
    """What a frame takes at most, of so many elements of which so many are sent."""
    blocks = [min(BLOCK_ELEMENTS, count - start) for start in range(0, count, BLOCK_ELEMENTS)]
    # Marks, rests and values each fill up their last byte.
    heads = len(blocks) * (_HEAD.size + _MARKS.size + 3)
    fixed = sum(coder.size_bytes(0, length) for length in blocks)
    values = coder.size_bytes(sent_max, count) - coder.size_bytes(0, count)
    return heads + fixed + values + -(-rice_bits_max(sent_max, count) // 8)
