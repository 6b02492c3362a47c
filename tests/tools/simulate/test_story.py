"""The story of a simulation: faults come at their step, and the end is judged."""

from __future__ import annotations

import tomllib
from typing import Any

from tools.simulate.scene import parse_scene
from tools.simulate.story import Story, describe_paths

SCENE = """
steps = 20
[hosts.boot]
runs = "node"
[hosts.alice]
runs = "train"
[hosts.bob]
runs = "train"
"""
FAULTS = """
[[faults]]
at_step = 9
deed = "kill"
to = "bob"
[[faults]]
at_step = 5
deed = "cut"
to = "boot"
"""


def story_of(text: str) -> Story:
    """The story of a scene before anything happened."""
    return Story(parse_scene(tomllib.loads(text)))


def step(number: int) -> dict[str, Any]:
    """A line of an event log about a global step."""
    return {"event": "step", "step": number, "samples": 10}


def finish(story: Story, name: str, parameter_hash: str = "aa") -> None:
    """A trainer comes to its end."""
    story.on_event(name, {"event": "finished", "step": 20, "accuracy": 0.9, "hash": parameter_hash})
    story.on_exit(name, 0, "")


def start(story: Story) -> None:
    """All trainers are there."""
    for name in story.trainers:
        story.on_event(name, {"event": "started", "peer_id": f"id of {name}"})


def test_faults_come_in_order_when_all_are_there_and_the_step_is_reached() -> None:
    story = story_of(SCENE + FAULTS)
    story.on_event("alice", {"event": "started", "peer_id": "a"})
    story.on_event("alice", step(5))
    assert story.next_fault() is None  # bob is not there yet
    start(story)
    fault = story.next_fault()
    assert fault is not None
    assert (fault.deed, fault.to) == ("cut", "boot")
    assert story.next_fault() is None
    story.on_event("bob", step(9))
    fault = story.next_fault()
    assert fault is not None
    assert (fault.deed, fault.to) == ("kill", "bob")
    story.on_exit("bob", -9, "")
    was_over = story.is_over
    finish(story, "alice")
    assert (was_over, story.is_over) == (False, True)
    assert "problem" not in story.result(seconds=1.0)
    assert [one["state"] for one in story.result(seconds=1.0)["peers"]] == ["finished", "killed"]


def test_paths_and_progress_are_kept_for_the_result() -> None:
    story = story_of(SCENE)
    start(story)
    paths = {"b": "relayed", "c": "direct", "d": "direct"}
    story.on_event("alice", {"event": "progress", "samples_per_s": 7.0, "paths": paths})
    story.on_event("alice", step(3))
    story.on_event("alice", {"event": "round_failed", "reason": "a peer left"})
    (alice, _bob) = story.result(seconds=1.0)["peers"]
    assert (alice["paths"], alice["step"], alice["samples"]) == (paths, 3, 10)
    assert alice["rounds_failed"] == 1
    assert describe_paths(paths) == "2 direct, 1 relayed"
    assert describe_paths({}) == ""


def test_an_ill_end_is_called_so() -> None:
    story = story_of(SCENE)
    start(story)
    finish(story, "alice")
    finish(story, "bob", "bb")
    assert story.result(seconds=1.0)["problem"] == "the peers hold 2 different sets of parameters"

    story = story_of(SCENE)
    story.on_exit("alice", 1, "no initial peer answers")
    assert story.is_over
    assert "alice ended with exit code 1: no initial" in story.result(seconds=1.0)["problem"]

    story = story_of(SCENE + FAULTS)
    start(story)
    finish(story, "alice")
    finish(story, "bob")
    assert story.result(seconds=1.0)["problem"] == "all was over before cut boot"
