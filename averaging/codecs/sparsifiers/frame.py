"""A sparse vector as bytes: which elements are sent, and their values.

Little endian: the elements sent (32 bits), the width of the gaps' rests (8 bits) and the bytes of
the marks (32 bits); the marks; the rests; then the sent values, in order, as a quantizer's frame,
unless there is none. `positions` says what marks and rests are.
"""

from __future__ import annotations

import struct
from typing import Final

import torch

from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.sparsifiers.positions import (
    marks_size_bytes_max,
    rests_size_bytes,
    rice_bits_max,
    rice_pack,
    rice_unpack,
)
from averaging.codecs.tiles import bytes_of, check_size

_HEAD: Final = struct.Struct("<IBI")


def write_frame(
    values: torch.Tensor, positions: torch.Tensor, quantizer: Codec, seed: int
) -> torch.Tensor:
    """The frame of the elements of values that stand at these positions.

    Args:
        values: float32, 1-D, on any device.
        positions: int64, rising, on the same.
        quantizer: of which all frames of so many elements have one size.
    """
    if not positions.numel():
        return bytes_of(_HEAD.pack(0, 0, 0))
    width, marks, rests = rice_pack(positions.cpu().numpy())
    head = bytes_of(_HEAD.pack(positions.numel(), width, marks.size))
    data = quantizer.encode(values[positions], seed)
    return torch.cat([head, torch.from_numpy(marks), torch.from_numpy(rests), data])


def read_frame(frame: torch.Tensor, out: torch.Tensor, quantizer: Codec, sent_max: int) -> None:
    """Overwrite out, on any device, with the frame's values, and 0 where it has none.

    What is allocated on the way is a few bytes for each element sent, and two for each of out.

    Args:
        sent_max: elements that a frame for this out may have at most.

    Raises:
        FrameInvalid: it is no such frame.
    """
    count, data = out.numel(), frame.numpy()
    if data.size < _HEAD.size:
        raise FrameInvalid(f"{data.size} bytes are no head")
    sent, width, marks_bytes = _HEAD.unpack_from(data.data)
    if sent > sent_max or width > (count.bit_length() if sent else 0):
        raise FrameInvalid(f"{sent} elements sent of {count}, rests of {width} bits")
    if marks_bytes > (marks_size_bytes_max(sent, width, count) if sent else 0):
        raise FrameInvalid(f"{marks_bytes} bytes mark {sent} positions of {count}")
    out.zero_()
    rests_at = _HEAD.size + marks_bytes
    values_at = rests_at + rests_size_bytes(sent, width)
    check_size(frame, values_at + (quantizer.size_limit_bytes(sent) if sent else 0))
    if sent:
        marks, rests = data[_HEAD.size : rests_at], data[rests_at:values_at]
        positions = torch.from_numpy(rice_unpack(sent, width, marks, rests, count))
        values = out.new_empty(sent)
        quantizer.decode(frame[values_at:], values)
        out[positions.to(out.device)] = values


def frame_size_limit_bytes(count: int, sent_max: int, quantizer: Codec) -> int:
    """What a frame takes at most, of so many elements of which so many are sent."""
    # Marks and rests each fill up their last byte.
    positions = -(-rice_bits_max(sent_max, count) // 8) + 1
    return _HEAD.size + positions + quantizer.size_limit_bytes(sent_max)
