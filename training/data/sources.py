"""Where training text comes from: a source gives texts, shard by shard.

A shard is what one peer works through before it takes the next. All peers see the same shards, in
the same numbers, so that they can divide them (training/data/shares.py) without anybody who hands
them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from training.data.files import LINE_BYTES_MAX, StableFile, Stretch, cut_evenly, open_local
from training.data.remote import open_remote
from training.data.shares import SHARDS_MAX
from training.errors import RecipeError

TEXT_BYTES = 4096
"""Lines of plain text are put together to texts of about so many bytes."""
_SHARD_BYTES_MIN = 1 << 16
_SHARD_BYTES_MAX = 16 << 20
# Enough that each of a dozen peers has several shards, even of little text.
_SHARDS_WANTED = 256
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


class Source(Protocol):
    """Texts, in shards."""

    @property
    def name(self) -> str:
        """What it reads, for complaints."""

    @property
    def shard_count(self) -> int:
        """How many shards there are, at most SHARDS_MAX."""

    def texts(self, shard: int) -> Iterator[str]:
        """The texts of a shard, always the same in the same order.

        Raises:
            RecipeError: they cannot be read, or are no text.
        """


class FileSource:
    """Files of plain text or of JSON lines, here or on web servers.

    Args:
        column: where the text is in an object of JSON.
        shard_bytes: None: as suits the size of all files.
    """

    def __init__(
        self, files: Sequence[StableFile], *, column: str, shard_bytes: int | None = None
    ) -> None:
        total = sum(file.size_bytes for file in files)
        if not total:
            raise ValueError("a source needs some bytes")
        wanted = shard_bytes or min(
            _SHARD_BYTES_MAX, max(_SHARD_BYTES_MIN, -(-total // _SHARDS_WANTED))
        )
        self._files = list(files)
        self._column = column
        self.shards = cut_evenly(self._files, shard_bytes=max(wanted, -(-total // SHARDS_MAX)))

    @property
    def name(self) -> str:
        """The first file, and how many more."""
        more = len(self._files) - 1
        return self._files[0].name + (f" and {more} more" if more else "")

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return len(self.shards)

    def texts(self, shard: int) -> Iterator[str]:
        """As Source.texts."""
        for stretch in self.shards[shard]:
            if stretch.file.name.lower().endswith(JSON_ENDINGS):
                yield from _json_texts(stretch, self._column)
            else:
                yield from _plain_texts(stretch)


def open_files(places: Sequence[str], *, column: str) -> FileSource:
    """A source of what lies at paths and addresses, in this order.

    Raises:
        RecipeError: something is missing, empty or cannot be read.
    """
    files: list[StableFile] = []
    for place in places:
        if "://" in place:
            files.append(open_remote(place))
        else:
            files.extend(open_local(Path(place).expanduser()))
    return FileSource(files, column=column)


def _plain_texts(stretch: Stretch) -> Iterator[str]:
    lines: list[bytes] = []
    size_bytes = first = 0
    for at, line in stretch.lines():
        if not lines:
            first = at
        lines.append(line)
        size_bytes += len(line)
        if size_bytes >= TEXT_BYTES:
            yield _decode(stretch.file.name, first, b"".join(lines))
            lines, size_bytes = [], 0
    if lines:
        yield _decode(stretch.file.name, first, b"".join(lines))


def _decode(name: str, begin: int, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecipeError(
            f"{name}: is not UTF-8 text (byte {begin + exc.start}); convert it, for instance with "
            "iconv -t UTF-8, or take it out"
        ) from exc


def _json_texts(stretch: Stretch, column: str) -> Iterator[str]:
    for at, line in stretch.lines():
        if not line.strip():
            continue
        where = f"{stretch.file.name}: the line at byte {at}"
        if len(line) >= LINE_BYTES_MAX and not line.endswith(b"\n"):
            raise RecipeError(f"{where} is longer than {LINE_BYTES_MAX} bytes; split its text")
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise RecipeError(
                f"{where} is not JSON in UTF-8 ({exc}); each line must be one object"
            ) from exc
        if not isinstance(row, dict):
            raise RecipeError(f"{where} is not an object; write it as {{{column!r}: the text}}")
        yield text_of(row, column, where=where)


def text_of(row: dict[str, object], column: str, *, where: str) -> str:
    """The text in a row of a table.

    Raises:
        RecipeError: the row has no such column, or no text in it.
    """
    if column not in row:
        raise RecipeError(
            f"{where} has no column {column!r}, but {', '.join(sorted(row)) or 'none'}; name the "
            "one with the text as column in data_options"
        )
    text = row[column]
    if not isinstance(text, str):
        raise RecipeError(
            f"{where} has {type(text).__name__} in the column {column!r}, not text; name another "
            "column in data_options"
        )
    return text
