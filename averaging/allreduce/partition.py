"""Who averages which piece of the flat vector: spans, cut into pieces, cut into chunks (core).

A span is what one aggregator averages. It is cut into a few pieces: what a member holds, passes on
or has averaged again is a whole piece. A piece is cut into chunks: what travels in one message, and
is added whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SPAN_GRID_ELEMENTS = 4096
"""Spans start at multiples of this, so that pages and vector registers stay aligned."""
CHUNK_ELEMENTS = 262_144
"""2 MiB of float64: what fits into a message, however it travels."""
CHUNK_ELEMENTS_MAX = 1_048_576
"""2 MiB of 16-bit floats, or 1 MiB as bytes. It is messages that take time; but beyond it
little gets faster, and each buffered chunk costs memory."""
PIECES_PER_SPAN_MAX = 4
"""What is lost with an aggregator is averaged again in pieces, by as many others at most."""


@dataclass(frozen=True)
class Chunk:
    """A run of elements that is added whole or not at all."""

    number: int
    """Counted within its piece."""
    start: int
    stop: int

    @property
    def element_count(self) -> int:
        """Elements in the chunk."""
        return self.stop - self.start


@dataclass(frozen=True)
class Piece:
    """A run of whole chunks that one aggregator averages."""

    number: int
    """Counted over the whole vector."""
    owner: int
    """Counted among the group's aggregators."""
    start: int
    stop: int
    chunks: tuple[Chunk, ...]

    @property
    def element_count(self) -> int:
        """Elements in the piece."""
        return self.stop - self.start


def partition(
    element_count: int, span_elements: Sequence[int], chunk_elements: int
) -> tuple[Piece, ...]:
    """Spans of these lengths, in order, each cut into at most four pieces; empty ones have none.

    Raises:
        ValueError: the spans do not cover the vector once, or chunks have no length.
    """
    if chunk_elements < 1 or any(length < 0 for length in span_elements):
        raise ValueError("sizes and counts must be positive")
    if sum(span_elements) != element_count:
        raise ValueError(f"{sum(span_elements)} elements in spans of {element_count}")
    found: list[Piece] = []
    start = 0
    for owner, length in enumerate(span_elements):
        stop = start + length
        chunk_count = -(-length // chunk_elements)
        piece_count = min(chunk_count, PIECES_PER_SPAN_MAX)
        for number in range(piece_count):
            first = start + chunk_count * number // piece_count * chunk_elements
            last = start + chunk_count * (number + 1) // piece_count * chunk_elements
            end = min(last, stop)
            found.append(Piece(len(found), owner, first, end, _chunks(first, end, chunk_elements)))
        start = stop
    return tuple(found)


def _chunks(start: int, stop: int, chunk_elements: int) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(number, first, min(first + chunk_elements, stop))
        for number, first in enumerate(range(start, stop, chunk_elements))
    )
