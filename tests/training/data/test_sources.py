"""Texts of files: plain and JSON, in shards, and what is told of those that are no text."""

import json
from pathlib import Path

import pytest

from training.data.shares import SHARDS_MAX
from training.data.sources import TEXT_BYTES, FileSource, open_files
from training.errors import RecipeError

LINES = [f"Line {number} of a text with an ä in it.\n" for number in range(500)]


def all_texts(source: FileSource) -> list[str]:
    return [text for shard in range(source.shard_count) for text in source.texts(shard)]


def failure(source: FileSource) -> str:
    with pytest.raises(RecipeError) as raised:
        all_texts(source)
    return str(raised.value)


@pytest.mark.parametrize("shard_bytes", [None, 5000])
def test_plain_text_is_read_in_whole_lines(tmp_path: Path, shard_bytes: int | None) -> None:
    (tmp_path / "a.txt").write_text("".join(LINES), "utf-8")
    (tmp_path / "b.txt").write_text("The end.", "utf-8")
    opened = open_files([str(tmp_path)], column="text")
    source = FileSource(opened._files, column="text", shard_bytes=shard_bytes)
    assert source.name == f"{tmp_path / 'a.txt'} and 1 more"
    assert source.shard_count == (1 if shard_bytes is None else 4)
    texts = all_texts(source)
    assert "".join(texts) == "".join(LINES) + "The end."
    assert max(len(text.encode()) for text in texts) < TEXT_BYTES + 100


def test_there_are_never_too_many_shards(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 5000)
    (file,) = open_files([str(tmp_path)], column="text")._files
    source = FileSource([file], column="text", shard_bytes=1)
    assert source.shard_count == 1000 <= SHARDS_MAX
    assert "".join(all_texts(source)) == "x" * 5000
    with pytest.raises(ValueError, match="needs some bytes"):
        FileSource([], column="text")


def test_json_lines_have_the_text_in_a_column(tmp_path: Path) -> None:
    rows = [{"text": line, "number": number} for number, line in enumerate(LINES)]
    path = tmp_path / "a.JSONL"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    source = open_files([str(path)], column="text")
    assert all_texts(source) == LINES
    wrong = open_files([str(path)], column="body")
    expected = "the line at byte 0 has no column 'body', but number, text; name the one"
    assert expected in failure(wrong)
    number = open_files([str(path)], column="number")
    assert "has int in the column 'number', not text" in failure(number)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"}\n{nope\n', "the line at byte 14 is not JSON in UTF-8"),
        (b'{"text": "\xff"}\n', "the line at byte 0 is not JSON in UTF-8"),
        (b'["a"]\n', "is not an object; write it as {'text': the text}"),
        (b'{"text": "' + b"x" * (2 << 20) + b'"}\n', "is longer than 1048576 bytes"),
    ],
)
def test_what_is_no_json_is_told(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert expected in failure(open_files([str(path)], column="text"))


def test_what_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("".join(LINES).encode() + b"caf\xe9\n")
    place = len("".join(LINES).encode()) + 3
    told = failure(open_files([str(path)], column="text"))
    assert f"is not UTF-8 text (byte {place}); convert it, for instance with iconv" in told
