"""Who averages which piece of the flat vector: equal spans, cut into chunks (core)."""

from __future__ import annotations

from dataclasses import dataclass

SPAN_GRID_ELEMENTS = 4096
"""Spans start at multiples of this, so that pages and vector registers stay aligned."""
CHUNK_ELEMENTS_MAX = 131_072
"""512 KiB of float32: beyond it nothing gets faster, and each buffered chunk costs memory."""


@dataclass(frozen=True)
class Chunk:
    """A run of elements that is added whole or not at all."""

    number: int
    """Counted within its span."""
    start: int
    stop: int

    @property
    def element_count(self) -> int:
        """Elements in the chunk."""
        return self.stop - self.start


@dataclass(frozen=True)
class Span:
    """The piece of the vector that one aggregator averages."""

    owner: int
    """Counted among the group's aggregators."""
    start: int
    stop: int
    chunks: tuple[Chunk, ...]

    @property
    def element_count(self) -> int:
        """Elements in the span."""
        return self.stop - self.start


def partition(element_count: int, aggregator_count: int, chunk_elements: int) -> tuple[Span, ...]:
    """Equal spans that cover the vector once, in order; some are empty when it is tiny."""
    if element_count < 0 or aggregator_count < 1 or chunk_elements < 1:
        raise ValueError("sizes and counts must be positive")
    tiny = element_count < SPAN_GRID_ELEMENTS * aggregator_count
    grid = 1 if tiny else SPAN_GRID_ELEMENTS
    cells = -(-element_count // grid)
    starts = [
        min(cells * owner // aggregator_count * grid, element_count)
        for owner in range(aggregator_count + 1)
    ]
    return tuple(
        _span(owner, starts[owner], starts[owner + 1], chunk_elements)
        for owner in range(aggregator_count)
    )


def _span(owner: int, start: int, stop: int, chunk_elements: int) -> Span:
    chunks = tuple(
        Chunk(number, first, min(first + chunk_elements, stop))
        for number, first in enumerate(range(start, stop, chunk_elements))
    )
    return Span(owner, start, stop, chunks)
