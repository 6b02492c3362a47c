"""Files that must stay as they are while a run reads them, and their lines.

All peers read the same bytes by the same offsets. So a file that grows, shrinks or is replaced in
the middle of a run is an error, not new data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.data.text_windows import spans_of_files
from training.errors import RecipeError

LINE_BYTES_MAX = 1 << 20
"""A longer line of plain text is cut; a longer line of JSON is an error."""
_READ_BYTES = 1 << 16


class StableFile(Protocol):
    """Bytes under a name, here or elsewhere."""

    @property
    def name(self) -> str:
        """Its path or address, for complaints."""

    @property
    def size_bytes(self) -> int:
        """As of when it was opened."""

    def read(self, begin: int, size_bytes: int) -> bytes:
        """So many bytes from there on, fewer only at the file's end.

        Raises:
            RecipeError: it cannot be read, or is not what it was.
        """


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine, as it was when the run began."""

    path: Path
    size_bytes: int
    modified_ns: int

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self, begin: int, size_bytes: int) -> bytes:
        """As StableFile.read."""
        try:
            now = self.path.stat()
            if (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.modified_ns):
                raise RecipeError(
                    f"{self.path}: was changed while it was trained on; put the old content back, "
                    "or begin a run of another name with the new one"
                )
            with self.path.open("rb") as file:
                file.seek(begin)
                return file.read(size_bytes)
        except OSError as exc:
            raise RecipeError(f"{self.path}: cannot be read any more ({exc.strerror})") from exc


def open_local(path: Path) -> list[LocalFile]:
    """A file, or all files below a folder in the order of their names, without empty ones.

    Raises:
        RecipeError: there is no text, or it cannot be read.
    """
    files = []
    for span in spans_of_files(path):
        assert isinstance(span.source, Path), "files were asked for"
        found = span.source.stat()
        files.append(LocalFile(span.source, found.st_size, found.st_mtime_ns))
    return files


@dataclass(frozen=True)
class Stretch:
    """A part of a file; those lines are its own that begin in it."""

    file: StableFile
    begin: int
    end: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Where each line begins in the file, and the line with its newline.

        A line longer than LINE_BYTES_MAX comes in parts, none of which begins within a character.
        """
        # Whether a line begins at `begin` is told by the byte before it.
        at = reached = max(0, self.begin - 1)
        between = self.begin > 0
        read, used = b"", 0
        while True:
            size = read.find(b"\n", used) + 1 - used
            ended = size > 0
            if not ended and len(read) - used > LINE_BYTES_MAX:
                size = _cut(read[used : used + LINE_BYTES_MAX + 1])
            if size <= 0:
                more = self.file.read(reached, _READ_BYTES)
                if not more:
                    break
                read, used = read[used:] + more, 0
                reached += len(more)
                continue
            if not between:
                yield at, read[used : used + size]
            used, at = used + size, at + size
            between = between and not ended
            if at >= self.end and (ended or between):
                return
        if used < len(read) and not between:
            yield at, read[used:]


def _cut(line: bytes) -> int:
    """Where to cut a long line: before the character that LINE_BYTES_MAX falls into."""
    for size in range(LINE_BYTES_MAX, LINE_BYTES_MAX - 4, -1):
        if line[size] & 0xC0 != 0x80:
            return size
    return LINE_BYTES_MAX


def cut_evenly(files: list[StableFile], *, shard_bytes: int) -> list[tuple[Stretch, ...]]:
    """All files, one after another, cut into shards of so many bytes each; the last has fewer."""
    shards: list[tuple[Stretch, ...]] = []
    parts: list[Stretch] = []
    room = shard_bytes
    for file in files:
        begin = 0
        while begin < file.size_bytes:
            end = min(file.size_bytes, begin + room)
            parts.append(Stretch(file, begin, end))
            room -= end - begin
            begin = end
            if room == 0:
                shards.append(tuple(parts))
                parts, room = [], shard_bytes
    if parts:
        shards.append(tuple(parts))
    return shards
