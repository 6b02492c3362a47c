"""Rising positions by the gaps between them, in little more bits than they must take.

Source: R. Rice and J. Plaunt, "Adaptive Variable-Length Coding for Efficient Compression of
Spacecraft Television Data", 1971; it is the code of S. Golomb, 1966, by powers of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from averaging.codecs.codec import FrameInvalid

Array = np.ndarray[Any, Any]


def rice_pack(positions: Array) -> tuple[int, Array, Array]:
    """Positions in Rice's code of the width that is shortest.

    A gap, the elements left out before a position, is divided by 2**width: as many zeros as the
    quotient and then a one go to the marks; of the rests, the lowest bits of all come first.

    Args:
        positions: int64, at least one, rising, from 0.

    Returns:
        The width; the marks; the rests: both uint8.
    """
    gaps = _gaps(positions)
    width = _best_width(gaps, int(positions[-1]) + 1)
    ends = np.cumsum((gaps >> width) + 1) - 1
    marks = np.zeros(int(ends[-1]) + 1, np.uint8)
    marks[ends] = 1
    rests = (gaps.astype(np.uint32) >> np.arange(width, dtype=np.uint32)[:, None]) & 1
    return width, _bytes_of(marks), _bytes_of(rests.astype(np.uint8))


def rice_unpack(count: int, width: int, marks: Array, rests: Array, length: int) -> Array:
    """The positions, int64, rising, below length.

    The caller has checked that the marks are no more than `marks_size_bytes_max`, and the rests as
    many as are due.

    Raises:
        FrameInvalid: these are not so many positions, or not as they would have been packed.
    """
    marked_bits = np.unpackbits(marks, bitorder="little").view(np.bool_)
    marked = int(np.count_nonzero(marked_bits))
    # Never more positions than are due, whatever is marked.
    ends = np.flatnonzero(marked_bits) if marked == count else np.zeros(1, np.int64)
    if marked != count or int(ends[-1]) // 8 != marks.size - 1:
        raise FrameInvalid(f"{marked} positions are marked where there are {count}")
    bits = np.unpackbits(rests, bitorder="little")
    if bits[count * width :].any():
        raise FrameInvalid("bits behind the last rest are set")
    positions = _gaps(ends) << width
    for place, plane in enumerate(bits[: count * width].reshape(width, count)):
        positions |= plane.astype(np.int64) << place
    positions += 1
    np.cumsum(positions, out=positions)
    positions -= 1
    if int(positions[-1]) >= length:
        raise FrameInvalid(f"position {int(positions[-1])} of {length} elements")
    return positions


def rests_size_bytes(count: int, width: int) -> int:
    """What the rests of so many positions take."""
    return (count * width + 7) // 8


def marks_size_bytes_max(count: int, width: int, length: int) -> int:
    """What the marks of so many positions below length take at most."""
    return (count + (length >> width) + 7) // 8


def rice_bits_max(count: int, length: int) -> int:
    """What marks and rests of so many positions below length take at most, in bits."""
    widths = range(length.bit_length() + 1)
    return min(count * (width + 1) + (length >> width) for width in widths)


def _bytes_of(bits: Array) -> Array:
    return np.packbits(bits, bitorder="little")


def _gaps(positions: Array) -> Array:
    """What is left out before each position."""
    gaps = positions.copy()
    gaps[1:] -= positions[:-1] + 1
    return gaps


def _best_width(gaps: Array, length: int) -> int:
    """The width of which marks and rests take the fewest bits.

    With each bit more, the rests grow by as much and the marks shrink by less: so the first width
    from which no neighbor is better is the best of all.
    """

    def bits(width: int) -> int:
        return int((gaps >> width).sum()) + gaps.size * width

    # By the mean gap; it is right, or next to right, unless positions lie in clusters.
    width = max(0, (length // gaps.size).bit_length() - 1)
    fewest = bits(width)
    for step in (-1, 1):
        while width + step >= 0 and (found := bits(width + step)) < fewest:
            width, fewest = width + step, found
    return width
