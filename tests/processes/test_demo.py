"""The demo as `make demo` plays it: one SIGKILL, one late join, the same parameters everywhere."""

import json
from pathlib import Path

import pytest

from tests.processes.command import running

DEMO_S_MAX = 170.0
SEE = "See the logs and events in "


@pytest.mark.timeout(DEMO_S_MAX + 10)
def test_the_demo_learns_through_a_death_and_a_late_join(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with running("demo", "--json", "--keep-logs", str(logs), folder=tmp_path / "demo") as demo:
        exit_code = demo.finish(timeout_s=DEMO_S_MAX)
        said = demo.stderr
    assert exit_code == 0, said
    result = demo.json()
    assert result["accuracy"] >= 0.96
    assert result["steps"] >= 200
    assert result["seconds"] < DEMO_S_MAX

    ended = [peer["ended"] for peer in result["peers"]]
    assert ended == ["finished", "finished", "killed", "finished"]
    latecomer = result["peers"][3]
    assert latecomer["role"] == "latecomer"
    assert 0 < latecomer["started_step"] < result["steps"]
    assert latecomer["samples"] > 0
    killed = result["peers"][2]
    assert 0 < killed["last_step"] < result["steps"]
    alive = {peer["peer_id"] for peer in result["peers"]} - {killed["peer_id"]}
    assert set(result["hashes"]) == alive
    assert len(set(result["hashes"].values())) == 1

    good = [one for one in result["rounds"] if one["succeeded"]]
    assert {one["step"] for one in good} == set(range(1, result["steps"] + 1))
    before = next(one for one in good if one["step"] == killed["last_step"])
    assert killed["peer_id"] in before["members"]
    assert set(good[-1]["members"]) == alive
    assert all(sorted(one["fractions"]) == sorted(one["members"]) for one in good)

    assert "trainer-3 was killed with SIGKILL" in said
    for number in (1, 2, 3, 4):
        lines = (logs / f"trainer-{number}.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line)["event"] for line in lines[:2]] == ["prepared", "started"]


def test_the_demo_says_where_to_find_logs_when_it_fails(tmp_path: Path) -> None:
    with running("demo", "--steps", "12", "--peers", "1", "--no-kill-one", folder=tmp_path) as demo:
        assert demo.finish() == 1, demo.stderr
        lines = demo.stdout.splitlines()
    assert any(line.startswith("ill ") for line in lines)
    (where,) = [line for line in lines if line.startswith(SEE)]
    folder = Path(where.removeprefix(SEE))
    assert (folder / "trainer-1.jsonl").exists()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
