"""Numbers in as few bits as they need: fields of one width, and rising positions by their gaps."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from averaging.codecs.codec import FrameInvalid

Array = np.ndarray[Any, Any]

WIDTH_MAX: Final = 17
"""Bits of the rests of gaps: no gap in a block of 2**17 elements has more."""


def pack_fields(numbers: Array, width: int) -> Array:
    """Unsigned numbers below 2**width as bits: first the lowest bit of all, then the next.

    Returns:
        uint8, of `fields_size_bytes` bytes; spare bits of the last one are 0.
    """
    planes = (numbers[None, :] >> np.arange(width)[:, None].astype(numbers.dtype)) & 1
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack_fields(packed: Array, count: int, width: int) -> Array:
    """So many numbers of this width, as int64, from exactly the bytes that they were packed in.

    Raises:
        FrameInvalid: a spare bit is not 0.
    """
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count * width :].any():
        raise FrameInvalid("bits are set where there is no field")
    numbers = np.zeros(count, np.int64)
    for place, plane in enumerate(bits[: count * width].reshape(width, count)):
        numbers |= plane.astype(np.int64) << place
    return numbers


def fields_size_bytes(count: int, width: int) -> int:
    """What so many fields of this width take."""
    return (count * width + 7) // 8


def rice_pack(positions: Array) -> tuple[int, Array, Array]:
    """Rising positions by the gaps between them, in Rice's code of the width that is shortest.

    A gap, the elements left out before a position, is divided by 2**width: the rest is a field,
    and as many zeros as the quotient and then a one go to the marks.

    Args:
        positions: int64, at least one, rising, from 0.

    Returns:
        The width; the marks; the rests: both uint8.

    Source: R. Rice and J. Plaunt, "Adaptive Variable-Length Coding for Efficient Compression of
    Spacecraft Television Data", 1971; it is the code of S. Golomb, 1966, by powers of two.
    """
    gaps = _gaps(positions)
    length = int(positions[-1]) + 1
    # Above the logarithm of the mean gap, a wider field always costs more than it saves.
    widths = np.arange((length // gaps.size).bit_length() + 1)
    bits = (gaps[None, :] >> widths[:, None]).sum(1) + gaps.size * (1 + widths)
    width = int(bits.argmin())
    ends = np.cumsum((gaps >> width) + 1) - 1
    marks = np.zeros(int(ends[-1]) + 1, np.uint8)
    marks[ends] = 1
    rests = pack_fields(gaps & ((1 << width) - 1), width)
    return width, np.packbits(marks, bitorder="little"), rests


def rice_unpack(count: int, width: int, marks: Array, rests: Array, length: int) -> Array:
    """The positions, int64, rising, below length.

    The caller has checked that the marks are no more than `marks_size_bytes_max`.

    Raises:
        FrameInvalid: these are not so many positions, or not as they would have been packed.
    """
    ends = np.flatnonzero(np.unpackbits(marks, bitorder="little"))
    if ends.size != count or int(ends[-1]) // 8 != marks.size - 1:
        raise FrameInvalid(f"{ends.size} positions are marked where there are {count}")
    gaps = _gaps(ends) << width
    gaps |= unpack_fields(rests, count, width)
    positions = np.cumsum(gaps + 1) - 1
    if int(positions[-1]) >= length:
        raise FrameInvalid(f"position {int(positions[-1])} of {length} elements")
    return positions


def _gaps(positions: Array) -> Array:
    """What is left out before each position."""
    gaps = positions.copy()
    gaps[1:] -= positions[:-1] + 1
    return gaps


def marks_size_bytes_max(count: int, width: int, length: int) -> int:
    """What the marks of so many positions below length take at most."""
    return (count + (length >> width) + 7) // 8


def rice_bits_max(count: int, length: int) -> int:
    """What marks and rests of so many positions below length take at most, in bits."""
    return min(count * (width + 1) + (length >> width) for width in range(WIDTH_MAX + 1))
