"""A swarm of which every peer was stopped goes on from what each has on its own disk."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from training.loop import TrainOptions, TrainResult, run_recipe
from training.recipe import Recipe, load_recipe, override

Events = list[dict[str, Any]]


def recipe(steps: int) -> Recipe:
    changes = {"steps": steps, "global_batch": 128, "micro_batch": 16, "checkpoint_every": 3}
    return override(load_recipe("digits"), changes, source="test")


def run_both(steps: int, folders: list[Path]) -> tuple[list[TrainResult], list[Events]]:
    """Two peers that begin together, each with a folder of its own."""
    addresses: queue.Queue[str] = queue.Queue()
    results: dict[int, TrainResult] = {}
    events: list[Events] = [[], []]

    def run(number: int, initial_peers: tuple[str, ...]) -> None:
        def on_event(event: dict[str, Any]) -> None:
            events[number].append(event)
            if event["event"] == "started" and event["addresses"]:
                addresses.put(event["addresses"][0])

        options = TrainOptions(
            wait_for_peers=2,
            initial_peers=initial_peers,
            checkpoint_dir=folders[number],
            resume=True,
        )
        results[number] = run_recipe(recipe(steps), options, on_event)

    one = threading.Thread(target=run, args=(0, ()))
    one.start()
    run(1, (addresses.get(timeout=60.0),))
    one.join(60.0)
    return [results[0], results[1]], events


def of(events: Events, kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


@pytest.mark.slow
def test_all_go_on_from_the_newest_state_that_anybody_has(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    before, _ = run_both(6, folders)
    assert before[0].parameter_hash == before[1].parameter_hash
    # What the second one lost when its machine went down.
    (folders[1] / "step-000000006.pt").unlink()

    results, events = run_both(9, folders)
    assert [event["step"] for told in events for event in of(told, "started")] == [6, 3]
    assert [result.step for result in results] == [9, 9]
    assert results[0].parameter_hash == results[1].parameter_hash
    assert of(events[0], "caught_up") == []
    caught_up = of(events[1], "caught_up")
    assert caught_up
    assert caught_up[0]["step"] >= 6
    # Nobody repeated a step: what was reached before counts.
    steps = [event["step"] for event in of(events[0], "step")]
    assert steps == [7, 8, 9]
