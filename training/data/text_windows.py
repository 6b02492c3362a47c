"""Text in files too large for memory, read piece by piece where a peer wants to read.

The text is cut at fixed places into windows. Their number is known from the files' sizes alone, so
each peer can walk through all of them in an order of its own and go on where it stopped, without
anybody reading the whole text.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import RecipeError

TEST_SHARE = 0.01
# A word cut in two at the beginning of a window is left out, if it is one.
_WORD_BYTES_MAX = 256


@dataclass(frozen=True)
class Span:
    """A stretch of one text, in bytes."""

    source: Path | bytes
    """A file, or the text itself."""
    begin: int
    end: int


def spans_of_files(path: Path) -> list[Span]:
    """All of a text file, or of all files below a folder in the order of their names.

    Files and folders whose name begins with a dot are passed over, and so are empty files.

    Raises:
        RecipeError: there is no text, or it cannot be read.
    """
    if not path.exists():
        raise RecipeError(f"{path}: there is no such file or folder of text")
    files = [path]
    if path.is_dir():
        below = (file for file in path.rglob("*") if not file.is_dir())
        files = sorted(file for file in below if not _is_hidden(file.relative_to(path)))
    spans = []
    for file in files:
        try:
            with file.open("rb"):
                size = file.stat().st_size
        except OSError as exc:
            raise RecipeError(f"{file}: cannot be read ({exc.strerror})") from exc
        if size:
            spans.append(Span(file, 0, size))
    if not spans:
        raise RecipeError(f"{path}: holds no text; put text files there, in UTF-8")
    return spans


def split_off_test(
    spans: Sequence[Span], share: float = TEST_SHARE
) -> tuple[list[Span], list[Span]]:
    """Cut all of it in two; the second part, for testing, is the given share at the end."""
    total = sum(span.end - span.begin for span in spans)
    left = total - max(1, int(total * share))
    train: list[Span] = []
    test: list[Span] = []
    for span in spans:
        cut = span.begin + max(0, min(left, span.end - span.begin))
        if cut > span.begin:
            train.append(Span(span.source, span.begin, cut))
        if cut < span.end:
            test.append(Span(span.source, cut, span.end))
        left -= span.end - span.begin
    return train, test


class TextWindows:
    """Spans of text, cut into windows that begin every so many bytes."""

    def __init__(self, spans: Sequence[Span], *, stride_bytes: int) -> None:
        """Cut the spans; the rest of a span that is shorter than a stride is a window, too.

        Raises:
            ValueError: no spans, or a stride below 1.
        """
        if not spans or stride_bytes < 1:
            raise ValueError(f"no windows of {stride_bytes} bytes in {len(spans)} spans of text")
        self._spans = tuple(spans)
        self.stride_bytes = stride_bytes
        self._first: list[int] = []
        count = 0
        for span in spans:
            self._first.append(count)
            count += -(-(span.end - span.begin) // stride_bytes)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, index: int, *, size_bytes: int) -> str:
        """Whole words from the beginning of a window on, at most so many bytes.

        Raises:
            RecipeError: the file cannot be read any more.
        """
        if not 0 <= index < self._count:
            raise IndexError(f"window {index} of {self._count}")
        place = bisect.bisect_right(self._first, index) - 1
        span = self._spans[place]
        begin = span.begin + (index - self._first[place]) * self.stride_bytes
        raw = _read(span.source, begin, min(size_bytes, span.end - begin))
        if begin > span.begin:
            space = raw.find(b" ", 0, _WORD_BYTES_MAX)
            raw = raw[space + 1 :]
        # A character cut in two at either end vanishes.
        return raw.decode("utf-8", errors="ignore")


def _read(source: Path | bytes, begin: int, size_bytes: int) -> bytes:
    if isinstance(source, bytes):
        return source[begin : begin + size_bytes]
    try:
        with source.open("rb") as file:
            file.seek(begin)
            return file.read(size_bytes)
    except OSError as exc:
        raise RecipeError(f"{source}: cannot be read any more ({exc.strerror})") from exc


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
