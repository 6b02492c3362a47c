"""`manyhands simulate dht`: a small swarm from the command line to its table, budgets and plots."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.failures import CommandError
from tools.simulate.dht import _sizes

QUIET = ["simulate", "dht", "--nodes", "30", "--loss", "0", "--liars", "0", "--churn", "0"]


@pytest.mark.slow
def test_a_small_swarm_is_simulated_measured_and_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    wanted = [*QUIET, "--minutes", "20", "--check", "--json", "--plot", str(folder)]
    result = CliRunner().invoke(app, wanted)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (row,) = report["rows"]
    assert row["nodes"] == 30
    # Each reads twelve times an hour.
    assert 80 <= row["gets"] <= 160
    assert row["puts"] >= 25
    assert row["put_replicas_mean"] == 5
    measured = {one["name"]: one["measured"] for one in report["budgets"]}
    assert measured["gets that find what was put"] == 100
    assert measured["forgeries believed"] == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "dht-hops.svg",
        "dht-load.svg",
        "dht-messages.svg",
        "dht-seconds.svg",
    ]
    for path in folder.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.slow
def test_a_partition_is_told_phase_by_phase_and_a_missed_budget_is_a_failure() -> None:
    wanted = [*QUIET, "--minutes", "25", "--partition", "4:15:0.5", "--gets", "60", "--check"]
    result = CliRunner().invoke(app, [*wanted, "--json"])
    report = json.loads(result.stdout)
    phases = {one["name"]: one for one in report["rows"][0]["phases"]}
    assert list(phases) == ["steady", "partition", "healing", "healed"]
    # What is put meanwhile is not read on the other side.
    assert phases["steady"]["success"] == 1 > phases["partition"]["success"]
    held = {one["name"]: one["holds"] for one in report["budgets"]}
    assert held["gets after healing"]
    assert not held["gets that find what was put"]
    assert result.exit_code == 1


def test_smaller_swarms_are_drawn_beside_the_largest() -> None:
    assert _sizes(30) == [30]
    assert _sizes(1000) == [100, 316, 1000]


@pytest.mark.parametrize(
    "wrong", [["--partition", "1:2"], ["--partition", "1:1:1.5"], ["--partition", "a:b:c"]]
)
def test_a_swarm_that_cannot_be_is_a_misuse(wrong: list[str]) -> None:
    result = CliRunner().invoke(app, [*QUIET, *wrong])
    error = result.exception
    assert isinstance(error, CommandError)
    assert error.exit_code == 2
