"""What the benchmark of secure sums promises; test_command.py has it measure real rounds."""

from __future__ import annotations

from typing import Any

import pytest

from tools.bench.private.secure import budgets


def rows(secure_s: float, error: float, cpu_s: float = 1.0) -> list[dict[str, Any]]:
    common = {"peers": 8, "elements": 1_000_000}
    plain = {"step_seconds_median": 0.5, "cpu_seconds_per_round": 0.5, "error_max": 0.0}
    secure = {
        "step_seconds_median": secure_s,
        "cpu_seconds_per_round": cpu_s,
        "error_max": error,
    }
    return [
        common | {"averaging": "plain"} | plain,
        common | {"averaging": "secure"} | secure,
    ]


def test_a_secure_round_may_take_three_times_as_long() -> None:
    assert [one.holds for one in budgets(rows(1.4, 1e-7))] == [True, True, True]
    times, cpu_times, error = budgets(rows(1.6, 1e-5, cpu_s=1.7))
    assert not times.holds
    assert times.measured == pytest.approx(3.2)
    assert not cpu_times.holds
    assert cpu_times.measured == pytest.approx(3.4)
    assert not error.holds
