"""Who averages which piece of the flat vector: spans, cut into pieces, cut into chunks (core).

A span is what one aggregator averages. It is cut into a few pieces: what a member holds, passes on
or has reduced again is a whole piece. A piece is cut into chunks: what travels in one message, and
is added whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SPAN_GRID_ELEMENTS: Final = 4096
"""Spans start at multiples of this, so that pages and vector registers stay aligned."""
CHUNK_ELEMENTS_MAX: Final = 131_072
"""512 KiB of float32: beyond it nothing gets faster, and each buffered chunk costs memory."""
PIECES_PER_SPAN_MAX: Final = 4
"""A lost aggregator costs what it had not finished of one piece, and each piece a signature."""


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
    """A run of chunks that one aggregator averages and signs."""

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


def equal_spans(element_count: int, aggregator_count: int) -> tuple[int, ...]:
    """Elements of each aggregator's span when all do the same; some are 0 when it is tiny."""
    if element_count < 0 or aggregator_count < 1:
        raise ValueError("sizes and counts must be positive")
    tiny = element_count < SPAN_GRID_ELEMENTS * aggregator_count
    grid = 1 if tiny else SPAN_GRID_ELEMENTS
    cells = -(-element_count // grid)
    starts = [
        min(cells * owner // aggregator_count * grid, element_count)
        for owner in range(aggregator_count + 1)
    ]
    return tuple(starts[owner + 1] - starts[owner] for owner in range(aggregator_count))


def partition(span_elements: Sequence[int], chunk_elements: int) -> tuple[Piece, ...]:
    """The pieces of the vector, in order; an empty span has none."""
    if chunk_elements < 1 or any(elements < 0 for elements in span_elements):
        raise ValueError("sizes and counts must be positive")
    pieces: list[Piece] = []
    start = 0
    for owner, elements in enumerate(span_elements):
        chunk_count = -(-elements // chunk_elements)
        piece_count = min(PIECES_PER_SPAN_MAX, chunk_count)
        for number in range(piece_count):
            first = chunk_count * number // piece_count * chunk_elements
            last = min(chunk_count * (number + 1) // piece_count * chunk_elements, elements)
            pieces.append(_piece(len(pieces), owner, start + first, start + last, chunk_elements))
        start += elements
    return tuple(pieces)


def _piece(number: int, owner: int, start: int, stop: int, chunk_elements: int) -> Piece:
    chunks = tuple(
        Chunk(index, first, min(first + chunk_elements, stop))
        for index, first in enumerate(range(start, stop, chunk_elements))
    )
    return Piece(number, owner, start, stop, chunks)
