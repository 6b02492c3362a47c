"""The benchmark of strategies: every case at equal samples, and budgets that can be missed."""

from __future__ import annotations

import pytest

from tools.bench import strategies
from tools.bench.report import Row
from tools.bench.strategies import StrategiesOptions

OPTIONS = StrategiesOptions(steps=24, seeds=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_every_strategy_gets_as_many_samples(name: str) -> None:
    row = strategies.measure(name, strategies.SAME, strategies.SLOW, OPTIONS)
    assert row["samples"] == 4 * 24 * 32
    assert 0 < row["loss"] < 2.4
    assert row["seconds_at_20_mbit"] == pytest.approx(5 * row["seconds_at_100_mbit"])
    assert set(strategies.COLUMNS) <= row.keys()


def made_up(diloco_accuracy: float = 0.92, **changed: float) -> list[Row]:
    figures = {"loss": 1.0, "loss_at_third": 1.0, "test_accuracy": 0.9, "led": 4.0}
    figures |= {"published": 100.0, "sent_kb_per_peer": 100.0}
    rows: list[Row] = [
        {"strategy": name, "start": start, "rate": rate, **figures}
        for start, rate in strategies.CASES
        for name in strategies.STRATEGIES
    ]
    for row in rows:
        if row["strategy"] == strategies.LEADER:
            row |= {"loss_at_third": 0.5, "published": 30.0, "sent_kb_per_peer": 60.0}
            row |= changed
        if row["strategy"] == strategies.SYNC:
            row |= {"sent_kb_per_peer": 2500.0}
            row |= {"test_accuracy": 0.93 if row["rate"] == strategies.FAST else 0.9}
        if row["strategy"] == strategies.DILOCO:
            row |= {"test_accuracy": diloco_accuracy}
    return rows


def test_budgets_hold_or_are_missed() -> None:
    assert all(one.holds for one in strategies.budgets(made_up()))
    for wrong in (
        {"loss_at_third": 0.8},
        {"test_accuracy": 0.88},
        {"published": 34.0},
        {"sent_kb_per_peer": 80.0},
        {"led": 3.0},
        {"diloco_accuracy": 0.9},
    ):
        missed = [one for one in strategies.budgets(made_up(**wrong)) if not one.holds]
        assert len(missed) == 1, wrong


@pytest.mark.slow
def test_landscapes_are_judged() -> None:
    assert strategies.completion_ratio(0) > strategies.COMPLETION_RATIO_MIN
    assert strategies.leader_slope() <= strategies.SLOPE_MAX
