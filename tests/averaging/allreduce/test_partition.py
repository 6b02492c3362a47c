"""Spans and chunks cover the vector once, start where they should, and share it evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.partition import (
    PIECES_PER_SPAN_MAX,
    SPAN_GRID_ELEMENTS,
    partition,
    pieces,
)


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


spans = st.lists(st.one_of(st.just(0), st.integers(0, 3_000_000)), min_size=1, max_size=64)


@given(spans, st.sampled_from([1000, 4096, 131_072]))
def test_pieces_cover_the_vector_once(lengths: list[int], chunk: int) -> None:
    found = pieces(sum(lengths), lengths, chunk)
    assert [piece.number for piece in found] == list(range(len(found)))
    assert [piece.owner for piece in found] == sorted(piece.owner for piece in found)
    position = 0
    for piece in found:
        assert piece.start == position
        assert piece.element_count > 0
        for number, part in enumerate(piece.chunks):
            assert (part.number, part.start) == (number, position)
            assert part.element_count == min(chunk, piece.stop - position)
            position = part.stop
        assert piece.stop == position
    assert position == sum(lengths)


@given(spans, st.sampled_from([1000, 4096, 131_072]))
def test_a_span_has_up_to_four_pieces_of_whole_chunks(lengths: list[int], chunk: int) -> None:
    found = pieces(sum(lengths), lengths, chunk)
    for owner, length in enumerate(lengths):
        own = [piece for piece in found if piece.owner == owner]
        assert sum(piece.element_count for piece in own) == length
        chunk_count = -(-length // chunk)
        assert len(own) == min(chunk_count, PIECES_PER_SPAN_MAX)
        counts = [len(piece.chunks) for piece in own]
        assert sum(counts) == chunk_count
        assert not counts or max(counts) - min(counts) <= 1
        # Only the span's last chunk may be shorter.
        assert all(piece.element_count % chunk == 0 for piece in own[:-1])


@pytest.mark.parametrize(
    ("elements", "lengths", "chunk"), [(5, [4], 1), (4, [5, -1], 1), (4, [4], 0)]
)
def test_impossible_spans_are_refused(elements: int, lengths: list[int], chunk: int) -> None:
    with pytest.raises(ValueError, match=r"positive|spans"):
        pieces(elements, lengths, chunk)
