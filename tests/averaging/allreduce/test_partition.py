"""Pieces and chunks cover the vector once, in order, and cut each span in whole chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.partition import PIECES_PER_SPAN_MAX, partition

LENGTHS = st.lists(st.one_of(st.just(0), st.integers(0, 3_000_000)), min_size=1, max_size=64)
CHUNKS = st.sampled_from([1000, 4096, 131_072])


@given(LENGTHS, CHUNKS)
def test_chunks_cover_the_vector_once(lengths: list[int], chunk: int) -> None:
    pieces = partition(sum(lengths), lengths, chunk)
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    assert [piece.owner for piece in pieces] == sorted(piece.owner for piece in pieces)
    position = 0
    for piece in pieces:
        assert piece.start == position
        assert piece.element_count > 0
        for number, part in enumerate(piece.chunks):
            assert (part.number, part.start) == (number, position)
            assert part.element_count == min(chunk, piece.stop - position)
            position = part.stop
        assert piece.stop == position
    assert position == sum(lengths)


@given(LENGTHS, CHUNKS)
def test_a_span_has_up_to_four_pieces_of_whole_chunks(lengths: list[int], chunk: int) -> None:
    pieces = partition(sum(lengths), lengths, chunk)
    start = 0
    for owner, length in enumerate(lengths):
        own = [piece for piece in pieces if piece.owner == owner]
        assert not own or own[0].start == start
        assert sum(piece.element_count for piece in own) == length
        chunk_count = -(-length // chunk)
        assert len(own) == min(chunk_count, PIECES_PER_SPAN_MAX)
        counts = [len(piece.chunks) for piece in own]
        assert sum(counts) == chunk_count
        assert not counts or max(counts) - min(counts) <= 1
        # Only the span's last chunk may be shorter.
        assert all(piece.element_count % chunk == 0 for piece in own[:-1])
        start += length


def test_an_empty_vector_has_no_pieces() -> None:
    assert partition(0, [0, 0], 1) == ()
    assert partition(0, [], 1) == ()


@pytest.mark.parametrize(
    ("elements", "lengths", "chunk"),
    [(5, [4], 1), (4, [5, -1], 1), (4, [4], 0), (4, [2, 3], 1), (1, [], 1), (-1, [0], 1)],
)
def test_impossible_sizes_are_refused(elements: int, lengths: list[int], chunk: int) -> None:
    with pytest.raises(ValueError, match=r"positive|spans"):
        partition(elements, lengths, chunk)
