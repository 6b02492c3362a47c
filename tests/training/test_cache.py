"""What is cached is made once, and made anew where it was damaged or cannot be kept."""

from pathlib import Path

import pytest

from training.cache import cached


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return b"content"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "manyhands" / "recipes"


def test_it_is_made_once(folder: Path) -> None:
    make = Maker()
    assert [cached("one", make) for _ in range(3)] == [b"content"] * 3
    assert make.count == 1
    assert cached("other", make) == b"content"
    assert make.count == 2
    assert sorted(path.name for path in folder.iterdir()) == ["one", "other"]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 32, b"x" * 32 + b"content"])
def test_a_damaged_file_is_made_anew(folder: Path, damage: bytes) -> None:
    make = Maker()
    cached("one", make)
    (folder / "one").write_bytes(damage)
    assert cached("one", make) == b"content"
    assert make.count == 2
    assert cached("one", make) == b"content"
    assert make.count == 2


def test_a_folder_that_cannot_be_written_only_costs_time(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    make = Maker()
    assert [cached("one", make) for _ in range(2)] == [b"content"] * 2
    assert make.count == 2


def test_an_error_while_making_leaves_nothing(folder: Path) -> None:
    def fail() -> bytes:
        raise KeyError("no")

    with pytest.raises(KeyError):
        cached("one", fail)
    assert not folder.exists() or list(folder.iterdir()) == []
