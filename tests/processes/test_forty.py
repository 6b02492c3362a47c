"""The run with churn, small: five peers in two processes, one process killed and replaced."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.command import ENVIRONMENT, ROOT, TEST_S_MAX
from tests.soak.forty_figures import figures, verdict
from tests.soak.forty_story import End, Kill, Order, Start, Story

pytestmark = pytest.mark.timeout(TEST_S_MAX)

SMALL = ("--peers", "5", "--processes", "2", "--minutes", "0.2", "--pause-s", "0.2")


def test_survivors_and_newcomers_end_with_the_same_parameters(tmp_path: Path) -> None:
    saved, plot = tmp_path / "forty.json", tmp_path / "forty.svg"
    files = ("--save", str(saved), "--plot", str(plot))
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.forty", *SMALL, *files, "--json"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    peers = row["peers"]
    killed = [one for one in peers if one["ended"] == "killed"]
    finished = [one for one in peers if one["ended"] == "finished"]
    newcomers = [one for one in peers if one["newcomer"]]
    assert len(killed) == len(newcomers) in (2, 3)
    assert len(finished) == 5
    assert all(one in finished for one in newcomers)
    # Only the first process began the run; the state went from hand to hand since.
    later = [one for one in peers if not one["peer"].startswith("process-1.")]
    assert all(one["catch_ups"] >= 1 for one in later)
    assert len({one["hash"] for one in finished}) == 1
    assert {one["last_step"] for one in finished} == {row["steps"]}
    assert row["steps"] > max(one["last_step"] for one in killed)
    assert row["samples"] == sum(one["samples"] for one in peers) > 0
    assert row["memory_bytes_max"] > 0
    assert json.loads(saved.read_text("utf-8"))["rows"] == [row]
    assert plot.read_text("utf-8").startswith("<svg")


def told(story: Story, orders: list[Order], now_s: float, hash_of: dict[str, str]) -> None:
    """What peers would write when these orders are carried out."""
    for order in orders:
        names = (
            [f"{order.process}.{n + 1}" for n in range(order.peers)]
            if isinstance(order, Start)
            else []
        )
        for name in names:
            round = {"members": [name], "succeeded": True, "seconds": 0.1}
            step = story.step + 1
            for event in (
                {"event": "prepared", "samples_per_s_alone": 8.0},
                {"event": "started", "peer_id": name, "step": 0},
                {"event": "step", "step": step, "samples": 4, "seconds": 1.0, "round": round},
            ):
                story.on_event({"peer": name, **event}, now_s)
        if isinstance(order, End):
            for name, one in story.survivors().items():
                content = {"step": order.step, "equal": True, "hash": hash_of.get(name, "same")}
                if one.alive:
                    story.on_event({"peer": name, "event": "finished", **content}, now_s)


def play(hash_of: dict[str, str]) -> tuple[Story, list[Order]]:
    """Forty peers in ten processes for a hundred seconds, told without any process."""
    story = Story(peers=40, processes=10, seconds=100, rng=random.Random(1))
    given: list[Order] = []
    for now_s in range(200):
        orders = story.next_orders(now_s)
        given += orders
        told(story, orders, now_s, hash_of)
        if story.is_over:
            break
    return story, given


def test_a_third_is_killed_and_replaced() -> None:
    story, given = play({})
    kills = [order.process for order in given if isinstance(order, Kill)]
    starts = {order.process: order.peers for order in given if isinstance(order, Start)}
    assert len(kills) == 3
    assert sum(starts.values()) == 40 + 3 * 4
    assert isinstance(given[-1], End)
    assert story.is_over
    assert verdict(story) is None
    measured = figures(story, seconds=100.0, memory_bytes_max=1)
    assert (measured["killed"], measured["newcomers"], measured["survivors"]) == (12, 12, 40)
    assert measured["peers_at_once_max"] <= 40
    assert measured["samples"] == 52 * 4
    counted = sum(one["samples_per_s"] for one in measured["throughput"])
    slice_s = 2 * measured["throughput"][0]["middle_s"]
    # The first twelve computed before the clock began; slices are rounded.
    assert counted * slice_s == pytest.approx(40 * 4, rel=0.05)


def test_nobody_is_killed_who_alone_holds_the_state() -> None:
    story = Story(peers=4, processes=2, seconds=10, rng=random.Random(1))
    first = story.next_orders(0.0)
    assert story.next_orders(4.0) == [], "who joins later takes the state over: there was no step"
    told(story, first, 4.0, {})
    second = story.next_orders(4.0)
    assert [type(order) for order in second] == [Start]
    assert story.next_orders(20.0) == [], "neither a kill nor the newcomers after it"
    told(story, second, 20.0, {})
    assert [type(order) for order in story.next_orders(20.0)] == [Kill, Start]


def test_survivors_that_differ_are_named() -> None:
    story, _ = play({"newcomer-1.2": "other"})
    assert story.is_over
    assert "2 different states" in str(verdict(story))
    assert "newcomer-1.2 other" in str(verdict(story))


def test_a_process_that_ends_early_is_a_problem() -> None:
    story = Story(peers=4, processes=2, seconds=10, rng=random.Random(1))
    told(story, story.next_orders(0.0), 0.0, {})
    story.on_exit("process-1", 1, "no memory")
    assert story.is_over
    assert verdict(story) == "process-1 ended with exit code 1: no memory"
