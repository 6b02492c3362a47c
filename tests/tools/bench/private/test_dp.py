"""The benchmark of private and federated training: every row, and budgets that can be missed."""

from __future__ import annotations

import pytest

from tools.bench.private import dp
from tools.bench.private.dp import DpOptions
from tools.bench.report import Row


@pytest.mark.slow
def test_a_short_run_has_every_row_and_keeps_within_its_epsilon() -> None:
    rows, budgets = dp.run_dp(DpOptions(lots=2, exchanges=1, seeds=1))
    assert [row["method"] for row in rows] == [
        dp.PLAIN,
        *(dp.private_name(epsilon) for epsilon in dp.EPSILONS),
        *(dp.FEDAVG, dp.FEDAVG, dp.FEDPROX, dp.SCAFFOLD),
    ]
    for row in rows:
        assert set(dp.COLUMNS) == row.keys()
        assert 0 <= row["test_accuracy"] <= 1
        assert row["seconds"] > 0
    private = [row for row in rows if row["epsilon"] is not None]
    for row, stated in zip(private, dp.EPSILONS, strict=True):
        assert 0.99 * stated < row["epsilon"] <= stated
    # Two butterflies of four peers, 6 570 parameters of four bytes.
    assert private[0]["sent_kb_per_peer"] == pytest.approx(2 * 2 * 0.75 * 6570 * 4 / 1e3)
    # Two of four contribute an update; to SCAFFOLD all contribute, and twice as much.
    averaged, _, _, corrected = (row["sent_kb_per_peer"] for row in rows[-4:])
    assert corrected == pytest.approx(8 / 6 * 2 * averaged, rel=1e-3)
    assert budgets[0].holds


def made_up(**changed: float) -> list[Row]:
    figures = {
        (dp.PLAIN, dp.IID): 0.97,
        (dp.private_name(1.0), dp.IID): 0.8,
        (dp.private_name(4.0), dp.IID): 0.9,
        (dp.private_name(8.0), dp.IID): 0.92,
        (dp.FEDAVG, dp.IID): 0.97,
        (dp.FEDAVG, dp.UNEQUAL): 0.9,
        (dp.FEDPROX, dp.UNEQUAL): 0.91,
        (dp.SCAFFOLD, dp.UNEQUAL): 0.95,
    }
    rows: list[Row] = [
        {"method": method, "data": data, "test_accuracy": accuracy, "epsilon": None}
        for (method, data), accuracy in figures.items()
    ]
    for row, epsilon in zip(rows[1:4], dp.EPSILONS, strict=True):
        row["epsilon"] = epsilon
    for key, value in changed.items():
        index, _, column = key.removeprefix("row_").partition("_")
        rows[int(index)][column] = value
    return rows


def test_budgets_hold_or_are_missed() -> None:
    assert all(one.holds for one in dp.budgets(made_up()))
    for wrong in (
        {"row_2_epsilon": 4.1},
        {"row_3_test_accuracy": 0.84},
        {"row_1_test_accuracy": 0.93},
        {"row_0_test_accuracy": 0.91},
        {"row_4_test_accuracy": 0.89},
        {"row_7_test_accuracy": 0.89},
    ):
        missed = [one for one in dp.budgets(made_up(**wrong)) if not one.holds]
        assert len(missed) == 1, wrong
