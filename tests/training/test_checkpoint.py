"""Checkpoints are whole or not there, damage is noticed, and the last good one stays."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from training.checkpoint import (
    Checkpoint,
    holds_checkpoints,
    load_newest_checkpoint,
    restore,
    save_checkpoint,
)
from training.errors import CheckpointError


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer that has moments to save."""
    model = nn.Linear(width, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return model, optimizer


def checkpoint(step: int, run: str = "digits") -> Checkpoint:
    """A checkpoint of a small model."""
    model, optimizer = trained()
    return Checkpoint(
        run=run,
        step=step,
        samples=7,
        drawn=9,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
    )


def names(folder: Path) -> list[str]:
    """All that is in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """No file can grow beyond this size, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def complaint(folder: Path) -> str | None:
    """Why the newest checkpoint cannot be loaded, if so."""
    try:
        load_newest_checkpoint(folder, run="digits")
    except CheckpointError as error:
        return str(error)
    return None


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when missing"
    model, optimizer = trained()
    saved = Checkpoint(
        run="digits",
        step=12,
        samples=7,
        drawn=9,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        share={"done": [1 << 900, 3], "current": None, "reader": "alice"},
    )
    assert save_checkpoint(folder, saved) == folder / "step-000000012.pt"
    loaded = load_newest_checkpoint(folder, run="digits")
    assert loaded is not None
    assert (loaded.step, loaded.samples, loaded.drawn) == (12, 7, 9)
    assert loaded.share == saved.share
    other_model, other_optimizer = trained()
    restore(loaded, other_model, other_optimizer)
    for ours, theirs in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(
            optimizer.state[ours]["exp_avg"], other_optimizer.state[theirs]["exp_avg"]
        )


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (50, 100, 150, 1_000_000_000):
        save_checkpoint(tmp_path, checkpoint(step))
    assert names(tmp_path) == ["step-000000150.pt", "step-1000000000.pt"]
    newest = load_newest_checkpoint(tmp_path, run="digits")
    assert newest is not None
    assert newest.step == 1_000_000_000


def test_an_empty_or_missing_folder_holds_none(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path, run="digits") is None
    assert load_newest_checkpoint(tmp_path / "missing", run="digits") is None
    assert not holds_checkpoints(tmp_path / "missing")


def test_damage_is_noticed_and_the_last_good_one_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    path = save_checkpoint(tmp_path, checkpoint(2))
    whole = path.read_bytes()
    rng = random.Random(0)
    for place in rng.sample(range(len(whole)), 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        said = complaint(tmp_path)
        if said is not None:  # else the change was in padding that nobody reads
            assert str(path) in said
            assert "step-000000001.pt" in said
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load_newest_checkpoint(tmp_path, run="digits")
    path.unlink()
    good = load_newest_checkpoint(tmp_path, run="digits")
    assert good is not None
    assert good.step == 1


def test_a_changed_parameter_is_always_noticed(tmp_path: Path) -> None:
    saved = checkpoint(1)
    path = save_checkpoint(tmp_path, saved)
    whole = path.read_bytes()
    weights = saved.model["weight"].numpy().tobytes()
    place = whole.index(weights) + 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match="checksum"):
        load_newest_checkpoint(tmp_path, run="digits")


class Trap:
    """Pickled code of a stranger's."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code from a checkpoint ran')",)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "trap": Trap()}, tmp_path / "step-000000001.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_newest_checkpoint(tmp_path, run="digits")


@pytest.mark.parametrize("content", [3, {"format": 2}, {"format": 1, "run": "digits"}])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "step-000000001.pt")
    with pytest.raises(CheckpointError, match=r"is not a"):
        load_newest_checkpoint(tmp_path, run="digits")


def test_another_run_or_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1, run="letters"))
    with pytest.raises(CheckpointError, match="belongs to the run 'letters'"):
        load_newest_checkpoint(tmp_path, run="digits")
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        restore(checkpoint(1), *trained(width=4))


def test_a_failed_write_leaves_the_old_ones_and_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    broken = checkpoint(2)
    broken.model["not for saving"] = (number for number in range(3))
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, broken)
    assert names(tmp_path) == ["step-000000001.pt"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(tmp_path / "file", checkpoint(2))


def test_a_disk_that_is_full_halfway_leaves_the_last_good_one(tmp_path: Path) -> None:
    size_bytes = save_checkpoint(tmp_path, checkpoint(1)).stat().st_size
    with room_for(size_bytes // 2), pytest.raises(CheckpointError, match="make room or give"):
        save_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["step-000000001.pt"]
    good = load_newest_checkpoint(tmp_path, run="digits")
    assert good is not None
    assert good.step == 1


def test_what_a_crash_left_behind_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".step-000000001.pt.4242.tmp").write_bytes(b"half")
    save_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["step-000000002.pt"]
