"""What the benchmark of secure sums promises; test_command.py has it measure real rounds."""

from __future__ import annotations

from typing import Any

import pytest

from tools.bench.private.secure import budgets


def rows(secure_s: float, error: float) -> list[dict[str, Any]]:
    common = {"peers": 8, "elements": 1_000_000}
    return [
        common | {"averaging": "plain", "step_seconds_median": 0.5, "error_max": 0.0},
        common | {"averaging": "secure", "step_seconds_median": secure_s, "error_max": error},
    ]


def test_a_secure_round_may_take_three_times_as_long() -> None:
    assert [one.holds for one in budgets(rows(1.4, 1e-7))] == [True, True]
    times, error = budgets(rows(1.6, 1e-5))
    assert not times.holds
    assert times.measured == pytest.approx(3.2)
    assert not error.holds
