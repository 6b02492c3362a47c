"""The rows on operators, at small size, and their budgets."""

from __future__ import annotations

from tools.bench.compression import operators
from tools.bench.compression.operators import CONTRACTION, SELECTED, TIMES
from tools.bench.report import Row


def rows(**changed: float) -> list[Row]:
    selected = {"mended_max": 1.3, "mended_min": 0.7, "rounding": 0.01}
    contraction = {"missed_max": 0.9, "tighter_bound": 0.98}
    shape = {"skewness_mean": 0.1, "kurtosis_mean": 4.0}
    timed = {"operator": "Gaussian_k", "device": "cpu", "elements": 1_000_000, "times_as_fast": 2.0}
    return [
        {"part": TIMES, **timed} | changed,
        {"part": SELECTED, "density": 0.01, **selected} | changed,
        {"part": CONTRACTION, "density": 0.01, **contraction, **shape} | changed,
    ]


def test_budgets_hold_or_are_missed() -> None:
    assert all(one.holds for one in operators.operators_budgets(rows()))
    for wrong in (
        {"times_as_fast": 1.4},
        {"mended_max": 1.35},
        {"mended_min": 0.6},
        {"missed_max": 0.99},
        {"skewness_mean": 0.4},
        {"kurtosis_mean": 2.9},
    ):
        missed = [one for one in operators.operators_budgets(rows(**wrong)) if not one.holds]
        assert len(missed) == 1, wrong


def test_times_are_judged_from_a_million_on() -> None:
    names = [one.name for one in operators.operators_budgets(rows(elements=100_000))]
    assert not any("torch.topk" in name for name in names)
