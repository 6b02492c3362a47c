"""The figures of split learning: every row, and budgets that hold."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tools.bench.private.split import (
    CENTRAL,
    COLUMNS,
    LARGE_BATCH,
    SPLIT,
    U_SPLIT,
    VERTICAL,
    SplitOptions,
    measure_split,
)
from tools.bench.progress import Steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
STEPS, BATCH, WIDTH, BACK = 20, 32, 256, 512


def test_all_rows_and_budgets() -> None:
    screen = Console(file=io.StringIO())
    with Steps(screen) as steps:
        rows, budgets = measure_split(SplitOptions(steps=STEPS, equality_steps=5), steps)
    by_setup = {row["setup"]: row for row in rows}
    assert list(by_setup) == [CENTRAL, LARGE_BATCH, SPLIT, U_SPLIT, VERTICAL]
    assert all(set(COLUMNS) <= row.keys() for row in rows)
    # The same steps on the same samples.
    assert by_setup[CENTRAL]["accuracy"] == by_setup[SPLIT]["accuracy"]
    assert by_setup[CENTRAL]["accuracy"] == by_setup[U_SPLIT]["accuracy"]
    kilobytes = STEPS * BATCH * (2 * WIDTH * 4 + 8) / 1e3
    assert by_setup[SPLIT]["client_kb"] == pytest.approx(kilobytes)
    assert by_setup[U_SPLIT]["client_kb"] == pytest.approx(
        STEPS * BATCH * 2 * (WIDTH + BACK) * 4 / 1e3
    )
    share = by_setup[SPLIT]["client_mflops"] / by_setup[LARGE_BATCH]["client_mflops"]
    assert 0 < share < 1
    assert [budget.name for budget in budgets if not budget.holds] == []
    assert len(budgets) == 4
