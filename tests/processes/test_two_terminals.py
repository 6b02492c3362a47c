"""The walk of the README: a node in one terminal, a trainer in each of two others."""

import json
from pathlib import Path

import pytest

from tests.processes.command import LOOPBACK, TEST_S_MAX, running, running_node

STEPS = "40"
pytestmark = pytest.mark.timeout(TEST_S_MAX)


def test_two_trainers_started_by_hand_end_with_the_same_parameters(tmp_path: Path) -> None:
    with running_node(tmp_path) as (_, address):
        train = ["train", "digits", "--initial-peers", address, "--listen", LOOPBACK]
        train += ("--steps", STEPS, "--wait-for-peers", "2", "--json")
        with (
            running(*train, folder=tmp_path / "one") as one,
            running(*train, folder=tmp_path / "two") as two,
        ):
            codes = one.finish(), two.finish()
            assert codes == (0, 0), one.stderr + two.stderr
    results = [one.json(), two.json()]
    assert [result["ended"] for result in results] == ["finished", "finished"]
    assert [result["step"] for result in results] == [40, 40]
    assert results[0]["hash"] == results[1]["hash"]
    assert results[0]["peer_id"] != results[1]["peer_id"]
    assert sum(result["samples"] for result in results) >= 40 * 256 * 0.9
    assert all(result["samples"] > 0 for result in results)


def test_one_trainer_alone_resumes_and_is_listed(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoints")
    events = tmp_path / "events.jsonl"
    alone = ["train", "digits", "--listen", LOOPBACK, "--checkpoint-dir", folder, "--json"]
    alone += ("--events", str(events))
    curves = tmp_path / "curves"
    first_options = ("--steps", "60", "--tensorboard", str(curves))
    with running(*alone, *first_options, folder=tmp_path / "first") as first:
        assert first.finish() == 0, first.stderr
    with running(*alone, "--steps", "80", "--resume", folder=tmp_path / "again") as again:
        assert again.finish() == 0, again.stderr
    assert again.json()["step"] == 80
    (written,) = curves.iterdir()
    assert written.stat().st_size > 60 * 100, "several curves of sixty points"
    told = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    starts = [event["step"] for event in told if event["event"] == "started"]
    assert starts == [0, 60]
    steps = [event["step"] for event in told if event["event"] == "step"]
    assert steps == list(range(1, 81))
    saved = [Path(event["path"]).name for event in told if event["event"] == "checkpoint"]
    assert saved == [f"step-{step:09d}.pt" for step in (50, 60, 80)]
    assert all("time_s" in event for event in told)
    progress = [event for event in told if event["event"] == "progress"]
    assert all(event["swarm_samples"] == event["samples"] for event in progress)
    assert {event["global_batch"] for event in progress} == {256}


def test_peers_lists_who_trains(tmp_path: Path) -> None:
    with running_node(tmp_path) as (_, address):
        train = ("train", "digits", "--initial-peers", address, "--listen", LOOPBACK)
        with running(*train, "--wait-for-peers", "9", folder=tmp_path / "trainer") as trainer:
            peer_id = trainer.read_until("joined the run").split()[0]
            listing = ("peers", "--run", "digits", "--initial-peers", address, "--json")
            with running(*listing, folder=tmp_path / "peers") as peers:
                assert peers.finish() == 0, peers.stderr
    (row,) = peers.json()["peers"]
    assert row["peer_id"] == peer_id
    assert (row["step"], row["role"], row["path"]) == (0, "node", "direct")
    assert row["round_trip_s"] > 0
    assert row["agent"].startswith("manyhands ")
