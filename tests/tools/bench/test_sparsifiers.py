"""The benchmark of sparsifiers: rows of every operator and codec, and budgets that can be missed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tools.bench import sparsifiers
from tools.bench.progress import Steps
from tools.bench.report import Row
from tools.bench.sparsifiers import SparsifiersOptions, run_sparsifiers


def test_every_operator_and_codec_has_a_row() -> None:
    options = SparsifiersOptions(elements=(4096,), density=0.01, repetitions=1)
    report = run_sparsifiers(options, Steps(Console(file=io.StringIO())))
    operators = [row for row in report.rows if "pick_ms" in row]
    assert len(operators) == 5
    assert [row["what"] for row in report.rows[5:]] == list(sparsifiers.CODECS)
    assert all(row["pick_ms"] > 0 for row in operators)
    smaller = {row["what"]: row["times_smaller"] for row in report.rows[5:]}
    # 41 values of 4 bytes, and a seed of 8, for 4096 values.
    assert smaller["rand-k:0.01"] == pytest.approx(4 * 4096 / (8 + 4 * 41))
    # So short a vector has no promises.
    assert report.budgets == []


def made_up(gaussian_ms: float, encode_ms: float) -> list[Row]:
    count = sparsifiers.ROUND_TRIP_ELEMENTS
    return [
        {"what": sparsifiers.TORCH, "elements": count, "pick_ms": 60.0},
        {"what": sparsifiers.GAUSSIAN, "elements": count, "pick_ms": gaussian_ms},
        {"what": "topk:0.01", "elements": count, "encode_ms": encode_ms, "decode_ms": 10.0},
    ]


def test_budgets_hold_or_are_missed() -> None:
    assert [one.holds for one in sparsifiers.budgets(made_up(40.0, 40.0))] == [True, True]
    assert [one.holds for one in sparsifiers.budgets(made_up(41.0, 40.0))] == [False, True]
    assert [one.holds for one in sparsifiers.budgets(made_up(40.0, 41.0))] == [True, False]
