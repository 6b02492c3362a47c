"""Spans and chunks cover the vector once, start where they should, and share it evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.partition import SPAN_GRID_ELEMENTS, partition


@given(st.integers(0, 3_000_000), st.integers(1, 64), st.sampled_from([1000, 4096, 131_072]))
def test_chunks_cover_the_vector_once(elements: int, aggregators: int, chunk: int) -> None:
    spans = partition(elements, aggregators, chunk)
    assert [span.owner for span in spans] == list(range(aggregators))
    position = 0
    for span in spans:
        assert span.start == position
        for number, piece in enumerate(span.chunks):
            assert (piece.number, piece.start) == (number, position)
            assert 0 < piece.element_count <= chunk
            assert piece.element_count == chunk or piece.number == len(span.chunks) - 1
            position = piece.stop
        assert span.stop == position
    assert position == elements


@given(st.integers(0, 3_000_000), st.integers(1, 64))
def test_spans_are_equal_and_start_on_the_grid(elements: int, aggregators: int) -> None:
    spans = partition(elements, aggregators, 4096)
    grid = 1 if elements < SPAN_GRID_ELEMENTS * aggregators else SPAN_GRID_ELEMENTS
    assert all(span.start % grid == 0 for span in spans if span.element_count)
    sizes = [span.element_count for span in spans]
    assert max(sizes) - min(sizes) <= 2 * grid - 1


@pytest.mark.parametrize(("elements", "aggregators", "chunk"), [(-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_sizes_are_refused(elements: int, aggregators: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        partition(elements, aggregators, chunk)
