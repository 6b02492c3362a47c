"""What codecs share: tiles that stay in a cache, headers, and checks of what comes in."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from averaging.codecs.codec import FrameInvalid
from averaging.memory import MEMORY

if sys.byteorder != "little":
    raise ImportError("codecs write numbers as they lie in memory, which must be little endian")

TILE_ELEMENTS: Final = 65_536
"""Worked on at once: 256 KB of float32, and as much for what becomes of it, stay in a cache."""
SMALLEST: Final = 2.0**-100
"""A run (or block) of which no element is as large is sent as zeros: far below what training
moves, and high enough that no scale and no inverse of one leaves float32's normal range."""
LARGEST: Final = float(torch.finfo(torch.float32).max)
SCALE_BYTES: Final = 4
NOT_FINITE: Final = "only finite values can be encoded"


def tiles(count: int, size: int = TILE_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Where each tile of so many elements starts and stops."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def largest_of(values: torch.Tensor) -> float:
    """The largest absolute value; 0 if it is below SMALLEST.

    Raises:
        ValueError: an element is not finite.
    """
    low, high = torch.aminmax(values)
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        raise ValueError(NOT_FINITE)
    return largest if largest >= SMALLEST else 0.0


def rounded(value: float) -> float:
    """The nearest float32; what is too large becomes the largest."""
    return float(struct.unpack("<f", struct.pack("<f", min(value, LARGEST)))[0])


def rounded_up(value: float) -> float:
    """The next float32 that is not smaller; what is too large becomes the largest."""
    near = np.float32(rounded(value))
    return float(np.nextafter(near, np.float32(LARGEST)) if float(near) < value else near)


def bytes_of(data: bytes) -> torch.Tensor:
    """As they stand in a frame: uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def float_bytes(*values: float) -> torch.Tensor:
    """As float32, little endian: shape (4 × values,), uint8."""
    return bytes_of(struct.pack(f"<{len(values)}f", *values))


def check_size(frame: torch.Tensor, size_bytes: int) -> None:
    """Raises FrameInvalid unless the frame has this size."""
    if frame.numel() != size_bytes:
        raise FrameInvalid(f"a frame of {frame.numel()} bytes where {size_bytes} were due")


def floats_of(frame: torch.Tensor, count: int, *, low: float, high: float) -> torch.Tensor:
    """The float32 values that a frame begins with: shape (count,), on the CPU.

    Raises:
        FrameInvalid: one is NaN, or out of range.
    """
    # A copy is aligned, wherever the frame lies.
    values = frame[: SCALE_BYTES * count].clone().view(torch.float32)
    least, most = torch.aminmax(values)
    # Of NaN, both are NaN.
    if not (float(least) >= low and float(most) <= high):
        raise FrameInvalid(f"a number is not from {low:g} to {high:g}")
    return values


def symbol_rooms(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for one tile's symbols, uint8, and for them as indices, int32."""
    size = min(count, TILE_ELEMENTS)
    return (
        torch.empty(size, dtype=torch.uint8, device=device),
        torch.empty(size, dtype=torch.int32, device=device),
    )


def frame_on(values: torch.Tensor, size_bytes: int) -> torch.Tensor:
    """An empty frame where the values are, so that only finished bytes leave a GPU."""
    if values.is_cpu:
        return torch.from_numpy(MEMORY.empty(size_bytes, np.uint8))
    return torch.empty(size_bytes, dtype=torch.uint8, device=values.device)
