"""The benchmark of sparsifiers: a row of each operator, and budgets that can be missed."""

from __future__ import annotations

import io

from rich.console import Console

from tools.bench import sparsifiers
from tools.bench.progress import Steps
from tools.bench.sparsifiers import SparsifiersOptions, run_sparsifiers


def test_every_operator_has_a_row_of_each_kind_of_numbers() -> None:
    options = SparsifiersOptions(elements=(100_000,), density=0.01, repetitions=1)
    report = run_sparsifiers(options, Steps(Console(file=io.StringIO())))
    operators = list(sparsifiers.OPERATORS)
    assert [row["operator"] for row in report.rows] == 2 * operators
    assert all(set(row) == set(sparsifiers.COLUMNS) for row in report.rows)
    normal, laplace = report.rows[:5], report.rows[5:]
    for row in (*normal[:2], *laplace[:2]):
        assert row["selected_of_wanted"] == 1
    for row in (normal[3], normal[4], laplace[3]):
        assert 0.66 < row["selected_of_wanted"] < 1.34
    # The published loop stops with far too many.
    assert laplace[4]["selected_of_wanted"] > 5
    # So short a vector has no promises.
    assert report.budgets == []


def test_budgets_hold_or_are_missed() -> None:
    row = {"operator": sparsifiers.GAUSSIAN, "numbers": "normal", "elements": 1_000_000}
    for device, times, holds in (
        ("cpu", 1.5, True),
        ("cpu", 1.4, False),
        ("cuda", 3.0, True),
        ("cuda", 2.9, False),
    ):
        (budget,) = sparsifiers.budgets([{**row, "device": device, "times_as_fast": times}])
        assert budget.holds is holds
