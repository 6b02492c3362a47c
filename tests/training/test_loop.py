"""The training loop: its events, resuming, and how it ends early."""

from pathlib import Path
from typing import Any

import pytest

from training.errors import CheckpointError
from training.loop import TrainOptions, run_recipe
from training.recipe import Recipe, load_recipe, override


def short_recipe(steps: int) -> Recipe:
    """The built-in recipe, over after a few steps."""
    changes = {"steps": steps, "global_batch": 64, "checkpoint_every": 4}
    return override(load_recipe("digits"), changes, source="test")


def test_one_peer_alone_trains_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    events: list[dict[str, Any]] = []
    first = run_recipe(short_recipe(6), TrainOptions(checkpoint_dir=folder), events.append)
    assert (first.ended, first.step) == ("finished", 6)
    assert first.samples >= 6 * 64 * 0.9
    assert first.accuracy is not None
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == [
        *("prepared", "started", "step", "step", "step", "step", "checkpoint", "step", "step"),
        *("checkpoint", "finished"),
    ]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0]["round"]["members"] == [first.peer_id]
    assert steps[0]["round"]["fractions"] == {first.peer_id: 1.0}
    assert events[-1]["hash"] == first.parameter_hash
    assert all(event["time_s"] > 1e9 for event in events)

    again = run_recipe(
        short_recipe(8), TrainOptions(checkpoint_dir=folder, resume=True), events.append
    )
    assert (again.step, again.samples > first.samples) == (8, True)
    later = [event["step"] for event in events if event["event"] == "step"]
    assert later == [1, 2, 3, 4, 5, 6, 7, 8]

    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        run_recipe(short_recipe(8), TrainOptions(checkpoint_dir=folder), events.append)


def test_a_finished_run_resumes_to_its_end(tmp_path: Path) -> None:
    options = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    first = run_recipe(short_recipe(2), options, lambda event: None)
    again = run_recipe(short_recipe(2), options, lambda event: None)
    assert again.parameter_hash == first.parameter_hash
    assert again.accuracy == first.accuracy


def test_ctrl_c_leaves_the_swarm() -> None:
    events: list[dict[str, Any]] = []

    def interrupt(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    result = run_recipe(short_recipe(100), TrainOptions(), interrupt)
    assert (result.ended, result.step, result.accuracy) == ("stopped", 3, None)
    assert result.peer_id == events[1]["peer_id"]
    assert events[-1]["event"] == "stopped"
    assert events[-1]["reason"] == "Ctrl-C"


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="resume needs"):
        TrainOptions(resume=True)
    with pytest.raises(ValueError, match="fewer than one"):
        TrainOptions(wait_for_peers=0)
