"""The demo's story: when it kills, when it lets one join, and how it ends."""

from typing import Any

import pytest

from tools.demo.story import JOIN_AT_SHARE, KillTrainer, LetJoin, Order, Status, Story


def step_event(step: int, members: list[str], succeeded: bool = True) -> dict[str, Any]:
    """A line of an event log about a global step."""
    fractions = {member: 1.0 for member in members}
    return {
        "event": "step",
        "step": step,
        "loss": 1.0,
        "samples": 10,
        "seconds": 0.1,
        "round": {
            "members": members,
            "fractions": fractions,
            "seconds": 0.05,
            "succeeded": succeeded,
        },
    }


def started(name: str) -> dict[str, Any]:
    """The first line of an event log."""
    return {"event": "started", "peer_id": f"id of {name}", "addresses": [], "run": "r", "step": 0}


def finished(step: int, parameter_hash: str = "aa", accuracy: float = 0.98) -> dict[str, Any]:
    """The last line of an event log."""
    return {
        "event": "finished",
        "step": step,
        "accuracy": accuracy,
        "hash": parameter_hash,
        "samples": 10,
        "equal": True,
    }


def begun(kill_one: bool = True) -> Story:
    """Three trainers that are there."""
    story = Story(peers=3, steps=100, kill_one=kill_one)
    names = [order.name for order in story.on_node_ready()]
    assert names == ["trainer-1", "trainer-2", "trainer-3", "trainer-4"]
    assert [trainer.late for trainer in story.trainers.values()] == [False] * 3 + [True]
    for name in names[:3]:
        assert story.on_event(name, started(name)) == []
    return story


def play_to(story: Story, step: int) -> list[Order]:
    """Let the first trainer report each step up to this one."""
    orders: list[Order] = []
    for number in range(story.step + 1, step + 1):
        orders += story.on_event("trainer-1", step_event(number, ["a", "b"]))
    return orders


def test_one_is_killed_then_one_joins() -> None:
    story = begun()
    assert play_to(story, 19) == []
    story.on_event("trainer-4", {"event": "prepared"})
    assert story.trainers["trainer-4"].status is Status.WAITING
    assert play_to(story, 80) == [KillTrainer("trainer-3")]
    assert story.on_exit("trainer-3", -9) == [LetJoin("trainer-4")]
    assert story.trainers["trainer-4"].late
    assert play_to(story, 99) == []
    story.on_event("trainer-4", started("trainer-4"))
    story.on_event("trainer-4", {"event": "caught_up", "step": 82, "seconds": 0.1})
    assert story.trainers["trainer-4"].started_step == 82
    for name in ("trainer-1", "trainer-2", "trainer-4"):
        assert not story.is_over
        story.on_event(name, finished(100))
        story.on_exit(name, 0)
    assert story.is_over
    assert story.problem is None


def test_the_late_one_joins_at_its_mark() -> None:
    story = begun()
    assert play_to(story, 30) == [KillTrainer("trainer-3")]
    assert story.on_exit("trainer-3", -9) == []
    mark = 100 * JOIN_AT_SHARE
    assert play_to(story, int(mark) - 1) == []
    assert play_to(story, int(mark)) == [LetJoin("trainer-4")]


def test_none_is_killed_when_not_wanted() -> None:
    story = begun(kill_one=False)
    assert play_to(story, 100) == [LetJoin("trainer-4")]


def test_a_victim_that_has_not_begun_is_spared_until_it_has() -> None:
    story = Story(peers=2, steps=100, kill_one=True)
    story.on_node_ready()
    story.on_event("trainer-1", started("trainer-1"))
    assert play_to(story, 60) == []
    assert story.on_event("trainer-2", started("trainer-2")) == [KillTrainer("trainer-2")]


def test_who_comes_after_the_end_is_a_failure() -> None:
    story = begun(kill_one=False)
    play_to(story, 100)
    for name in ("trainer-1", "trainer-2", "trainer-3"):
        assert story.problem is None
        story.on_event(name, finished(100))
        story.on_exit(name, 0)
    assert story.problem == "all others finished before trainer-4 could join; give more --steps"


@pytest.mark.parametrize("exit_code", [1, -11, 0])
def test_a_trainer_that_ends_unasked_is_a_failure(exit_code: int) -> None:
    story = begun()
    story.on_exit("trainer-2", exit_code)
    assert story.is_over
    assert story.problem == f"trainer-2 ended with exit code {exit_code}"
    assert story.trainers["trainer-2"].status is Status.FAILED


def test_a_round_is_told_once_though_all_members_report_it() -> None:
    story = begun()
    for name in ("trainer-1", "trainer-2"):
        story.on_event(name, step_event(1, ["a", "b"]))
    story.on_event(
        "trainer-1",
        {**step_event(0, ["a", "b", "c"], succeeded=False), "event": "round_failed", "reason": "x"},
    )
    told = [(one.step, one.members, one.succeeded) for one in story.rounds]
    assert told == [(1, ("a", "b", "c"), False), (1, ("a", "b"), True)]
    assert story.trainers["trainer-1"].samples == 10
