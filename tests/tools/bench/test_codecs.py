"""The bench of codecs: each kind at a tiny size, and budgets that can be missed."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from averaging.codecs.registry import CODEC_NAMES
from tools.bench import codecs, hivemind_codecs_worker
from tools.bench.codecs import CPU, STEP_ELEMENTS, CodecsOptions
from tools.bench.command import app
from tools.bench.progress import Steps
from tools.bench.report import Row


@pytest.mark.slow
def test_every_kind_is_measured_with_one_thread() -> None:
    threads = torch.get_num_threads()
    options = CodecsOptions(elements=(300,), repeats=1, hivemind_python=sys.executable)
    report = codecs.run_codecs(options, Steps(Console(stderr=True)))
    assert torch.get_num_threads() == threads
    rows = [row for row in report.rows if row["device"] == CPU]
    assert sorted(row["codec"].partition(":")[0] for row in rows) == sorted(CODEC_NAMES)
    for row in rows:
        assert set(codecs.COLUMNS) <= row.keys()
        assert row["encode_gb_per_s"] > 0 < row["decode_gb_per_s"]
        # The table of quantile8 is as long as these few values.
        least = {"quantile8": 0.8, "float32": 1.0}.get(row["codec"], 1.9)
        assert row["times_smaller"] >= least
    # This Python has no hivemind; and nothing is judged at so small a size.
    reasons = {one["name"]: one["reason"] for one in report.skipped}
    assert all("hivemind" in reasons[f"{name}, 300 elements"] for name in codecs.HIVEMIND)
    assert report.budgets == []
    assert {"speed of float16", "speed of int8", "part of a step"} < reasons.keys()


def test_what_cannot_be_made_is_skipped() -> None:
    options = CodecsOptions(elements=(10,), codecs=("int8", "int9", "rounding:1"), repeats=1)
    report = codecs.run_codecs(options, Steps(Console(stderr=True)))
    assert [row["codec"] for row in report.rows if row["device"] == CPU] == ["int8"]
    assert [one["name"] for one in report.skipped][:2] == ["int9", "rounding:1"]


def test_one_codec_can_be_named() -> None:
    arguments = ["codecs", "--codec", "int8", "--elements", "1000", "--repeats", "1", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert [row["codec"] for row in json.loads(done.stdout)["rows"]] == ["int8"]
    assert done.exit_code == 1, "nothing could be judged"
    done = CliRunner().invoke(app, ["codecs", "--codec", "int9"])
    assert done.exit_code == 2


def made_up(**changed: float) -> list[Row]:
    figures = {"encode_gb_per_s": 6.0, "decode_gb_per_s": 6.0, "encode_ms": 20.0, "decode_ms": 20.0}
    rows: list[Row] = [
        {"codec": name, "device": CPU, "elements": count, **figures}
        for count in (1_000_000, STEP_ELEMENTS)
        for name in ("float16", "int8", "topk:0.001")
    ]
    for row in rows:
        if row["codec"] == changed.get("codec") and row["elements"] == STEP_ELEMENTS:
            row |= changed
    return rows


def test_budgets_hold_or_are_missed() -> None:
    skipped: list[str] = []

    def skip(name: str, reason: str) -> None:
        skipped.append(name)

    assert all(one.holds for one in codecs.budgets(made_up(), skip))
    assert skipped == []
    for wrong in (
        {"codec": "float16", "decode_gb_per_s": 4.9},
        {"codec": "int8", "encode_gb_per_s": 1.9},
        {"codec": "topk:0.001", "encode_ms": 31.0},
    ):
        missed = [one for one in codecs.budgets(made_up(**wrong), skip) if not one.holds]  # type: ignore[arg-type]
        assert len(missed) == 1, wrong
    few = [row for row in made_up() if row["codec"] == "int8" and row["elements"] == 1_000_000]
    assert len(codecs.budgets(few, skip)) == 2
    assert skipped == ["speed of float16", "part of a step"]
    gpu = [{**row, "device": "cuda", "encode_ms": 1e9} for row in few]
    assert len(codecs.budgets([*few, *gpu], skip)) == 2, "a GPU is measured, not judged"


def test_hivemind_gets_the_same_values_though_it_cannot_import_ours() -> None:
    assert torch.equal(hivemind_codecs_worker.values_of(100, codecs.SIGMA), codecs.values_of(100))
