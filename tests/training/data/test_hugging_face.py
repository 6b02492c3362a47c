"""Data sets read as streams, from files of this machine in their formats."""

import json
import sys
from pathlib import Path

import pytest

from training.data.hugging_face import DatasetSource, open_dataset
from training.errors import RecipeError

pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for is on this machine or nowhere."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def written(folder: Path, files: int = 3) -> str:
    for file in range(files):
        rows = [{"text": f"{file} {row}", "number": row} for row in range(4)]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"json:{folder}/*.jsonl"


def opened(dataset: str, *, split: str = "train", column: str = "text") -> DatasetSource:
    return open_dataset(dataset, split=split, column=column)


def test_each_file_is_a_shard(tmp_path: Path) -> None:
    name = written(tmp_path)
    source = opened(name)
    assert (source.name, source.shard_count) == (name, 3)
    for shard in (1, 0, 1, 2):
        assert list(source.texts(shard)) == [f"{shard} {row}" for row in range(4)]


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    expected = "has no column 'body', but number, text; name the one with the text as column"
    with pytest.raises(RecipeError, match=expected):
        opened(written(tmp_path), column="body")
    with pytest.raises(RecipeError, match=r"cannot be opened \(ValueError: Bad split: test"):
        opened(written(tmp_path), split="test")
    with pytest.raises(RecipeError, match=r"cannot be opened .*one of arrow, csv, json"):
        opened(f"json:{tmp_path}/missing.jsonl")
    with pytest.raises(RecipeError, match="name the files, as json:PATH"):
        opened("json:")
    with pytest.raises(RecipeError, match="cannot be opened"):
        opened("nobody/nothing")
    with pytest.raises(RecipeError, match="has int in the column 'number', not text"):
        next(opened(written(tmp_path), column="number").texts(0))


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n" * 3)
    with pytest.raises(RecipeError, match=r"cannot be opened|shard 0 cannot be read"):
        list(opened(f"text:{tmp_path}/a.txt").texts(0))


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RecipeError, match=r"package datasets.*'manyhands\[datasets\]'"):
        opened("json:a.jsonl")
