"""Lines of stretches: each line is exactly one stretch's, and files stay as they are."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import files
from training.data.files import Stretch, cut_evenly, open_local
from training.errors import RecipeError


class Memory:
    """A file in memory."""

    name = "memory"

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read(self, begin: int, size_bytes: int) -> bytes:
        return self.content[begin : begin + size_bytes]


@settings(max_examples=50)
@given(
    contents=st.lists(st.text("ab\nä", min_size=1, max_size=30), min_size=1, max_size=4),
    shard_bytes=st.integers(1, 40),
    read_bytes=st.integers(1, 8),
)
def test_each_line_belongs_to_one_shard(
    contents: list[str], shard_bytes: int, read_bytes: int
) -> None:
    opened = [Memory(content.encode()) for content in contents]
    shards = cut_evenly(list(opened), shard_bytes=shard_bytes)
    sizes = [sum(part.end - part.begin for part in shard) for shard in shards]
    assert all(size == shard_bytes for size in sizes[:-1])
    assert 0 < sizes[-1] <= shard_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_READ_BYTES", read_bytes)
        parts = [part for shard in shards for part in shard]
        lines = [(part.file, line) for part in parts for line in part.lines()]
    for file in opened:
        found = [line for owner, line in lines if owner is file]
        assert [line for _, line in found] == file.content.splitlines(keepends=True)
        assert all(file.content[at:].startswith(line) for at, line in found)


@given(
    content=st.text("aä\n", min_size=1, max_size=80),
    begin=st.integers(0, 60),
    longest=st.integers(4, 9),
)
def test_long_lines_come_in_parts_of_whole_characters(
    content: str, begin: int, longest: int
) -> None:
    whole = Memory(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_READ_BYTES", 3)
        patch.setattr(files, "LINE_BYTES_MAX", longest)
        cut = min(begin, whole.size_bytes)
        stretches = [Stretch(whole, 0, cut), Stretch(whole, cut, whole.size_bytes)]
        lines = [line for part in stretches if part.end > part.begin for line in part.lines()]
    assert "".join(line.decode() for _, line in lines) == content
    assert all(whole.content[at:].startswith(line) for at, line in lines)


def test_local_files_must_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    (file,) = open_local(path)
    assert (file.name, file.size_bytes, file.read(5, 10)) == (str(path), 9, b"text")
    os.utime(path, ns=(0, 1))
    with pytest.raises(RecipeError, match="was changed while it was trained on; put the old"):
        file.read(0, 1)
    path.unlink()
    with pytest.raises(RecipeError, match="cannot be read any more"):
        file.read(0, 1)
    with pytest.raises(RecipeError, match="holds no text; put text files there"):
        open_local(tmp_path)
