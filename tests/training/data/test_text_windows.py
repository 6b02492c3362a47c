"""Windows of large text: all of it is covered, words stay whole, and what is no text is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.text_windows import Span, TextWindows, spans_of_files, split_off_test
from training.errors import RecipeError


def read_all(spans: list[Span]) -> bytes:
    parts = []
    for span in spans:
        assert isinstance(span.source, bytes)
        parts.append(span.source[span.begin : span.end])
    return b"".join(parts)


@given(
    texts=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.9),
)
def test_the_test_text_is_the_end_of_all(texts: list[bytes], share: float) -> None:
    spans = [Span(text, 0, len(text)) for text in texts]
    train, test = split_off_test(spans, share)
    whole = b"".join(texts)
    count = max(1, int(len(whole) * share))
    assert read_all(train) == whole[: len(whole) - count]
    assert read_all(test) == whole[len(whole) - count :]


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), stride=st.integers(1, 12))
def test_windows_cover_each_span_once(sizes: list[int], stride: int) -> None:
    # Letters only: with no space there is nothing at a window's beginning that could be left out.
    texts = [bytes([97 + index]) * size for index, size in enumerate(sizes)]
    windows = TextWindows([Span(text, 0, len(text)) for text in texts], stride_bytes=stride)
    read = "".join(windows.read(index, size_bytes=stride) for index in range(len(windows)))
    assert read.encode() == b"".join(texts)


def test_words_are_whole_at_the_beginning_and_size_is_kept() -> None:
    windows = TextWindows([Span(b"some words of a text", 0, 20)], stride_bytes=7)
    assert [windows.read(index, size_bytes=14) for index in range(3)] == [
        "some words of ",
        "of a text",
        "text",
    ]
    assert windows.read(0, size_bytes=3) == "som"


def test_characters_cut_in_two_vanish() -> None:
    text = "ää öö üü".encode()
    windows = TextWindows([Span(text, 0, len(text))], stride_bytes=3)
    assert windows.read(0, size_bytes=3) == "ä"
    assert windows.read(1, size_bytes=100) == "öö üü"


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second ")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("first ")
    (tmp_path / "c.txt").write_text("third")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x").write_text("not this")
    spans = spans_of_files(tmp_path)
    windows = TextWindows(spans, stride_bytes=100)
    assert [windows.read(index, size_bytes=100) for index in range(3)] == [
        "first ",
        "second ",
        "third",
    ]
    assert spans_of_files(tmp_path / "b.txt") == [Span(tmp_path / "b.txt", 0, 7)]


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file or folder of text"):
        spans_of_files(tmp_path / "missing")
    with pytest.raises(RecipeError, match="holds no text; put text files there"):
        spans_of_files(tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match=r"gone\.txt: cannot be read \(No such file"):
        spans_of_files(tmp_path)


def test_a_file_that_vanishes_later_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    windows = TextWindows(spans_of_files(path), stride_bytes=4)
    path.unlink()
    with pytest.raises(RecipeError, match="cannot be read any more"):
        windows.read(0, size_bytes=4)


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="no windows"):
        TextWindows([], stride_bytes=4)
    with pytest.raises(ValueError, match="no windows"):
        TextWindows([Span(b"text", 0, 4)], stride_bytes=0)
    with pytest.raises(IndexError, match="window 1 of 1"):
        TextWindows([Span(b"text", 0, 4)], stride_bytes=4).read(1, size_bytes=4)
