"""The command: what it refuses, and what --full adds."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tools.bench.command import app
from tools.bench.compression.run import PARTS, CompressionOptions, run_compression
from tools.bench.compression.swarm import FLOATS, SWARM, SwarmOptions
from tools.bench.options import shown_steps


@pytest.mark.parametrize(
    "wrong", [("--part", "nothing"), ("--codec", "nothing"), ("--codec", "int8/demo:0.5")]
)
def test_what_there_is_not_is_refused_before_anything_is_measured(wrong: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["compression", *wrong])
    assert done.exit_code == 2
    assert wrong[1].rpartition("/")[2].partition(":")[0] in done.output


def test_full_is_the_same_and_more() -> None:
    usual = CompressionOptions(parts=("swarm",))
    full = usual.full()
    assert full.parts == usual.parts
    assert set(usual.swarm.codecs) < set(full.swarm.codecs)
    assert set(usual.swarm.uplinks_mbit) < set(full.swarm.uplinks_mbit)
    assert FLOATS in full.swarm.codecs
    assert full.training.language_steps
    assert full.biased.steps > usual.biased.steps


def test_only_parts_that_are_asked_for_are_measured() -> None:
    assert len(PARTS) == 4
    options = CompressionOptions(parts=("swarm",), swarm=SwarmOptions(codecs=(), peers=0))
    with shown_steps() as steps:
        report, budgets = run_compression(options, steps)
    assert list(report.tables) == [SWARM]
    assert (report.rows, budgets) == ([], {"swarm": []})
