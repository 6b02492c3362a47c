"""The page of results and its plots."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.bench.compression.biased import DIGITS, REGRESSION
from tools.bench.compression.page import PAGE, plots, write
from tools.bench.compression.swarm import SWARM
from tools.bench.report import Budget, Report, Row
from tools.failures import CommandError

CURVE = [(1.0, 0.5), (10.0, 0.1), (1000.0, 1e-4), (2000.0, 0.0)]


def rows() -> list[Row]:
    methods = (("dense", "none"), ("topk:0.02", "ef21"), ("sign", "ef21"))
    found: list[Row] = [
        {"part": table, "codec": codec, "error_feedback": how, "curve": CURVE}
        for table in (REGRESSION, DIGITS)
        for codec, how in methods
    ]
    return [
        *found,
        {"part": SWARM, "codec": "floats", "uplink_mbit_per_s": 100.0, "curve": CURVE[:1]},
        {"part": SWARM, "codec": "int8", "uplink_mbit_per_s": 20.0, "curve": CURVE[:3]},
    ]


def test_plots_are_drawn_of_what_is_there() -> None:
    drawn = plots(rows())
    assert sorted(drawn) == [
        "compression-digits.svg",
        "compression-regression.svg",
        "compression-swarm.svg",
    ]
    for svg in drawn.values():
        ElementTree.fromstring(svg)
    assert "topk:0.02, ef21" in drawn["compression-regression.svg"]
    assert "sign, ef21" not in drawn["compression-regression.svg"]
    assert "int8" in drawn["compression-swarm.svg"]
    assert "floats" not in drawn["compression-swarm.svg"]
    assert plots([]) == {}


def test_a_page_is_begun_and_filled(tmp_path: Path) -> None:
    report = Report(
        "compression", (), rows(), tables={SWARM: (SWARM, ("codec", "uplink_mbit_per_s"))}
    )
    budgets = {"swarm": [Budget("a promise", 1.0, 2.0, "times", "<=")]}
    write(report, budgets, tmp_path)
    text = (tmp_path / PAGE).read_text("utf-8")
    assert "| int8 | 20 |" in text
    assert "holds: a promise" in text
    (tmp_path / PAGE).write_text(text.replace("# Compression, measured", "# By hand"), "utf-8")
    write(report, budgets, tmp_path)
    assert (tmp_path / PAGE).read_text("utf-8").startswith("# By hand")
    with pytest.raises(CommandError, match="cannot be written"):
        write(report, budgets, tmp_path / PAGE)
