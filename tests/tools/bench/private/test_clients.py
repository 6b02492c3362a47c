"""Bytes by number of clients: where the lines cross, and sessions that move what formulae say."""

from __future__ import annotations

import pytest

from tools.bench.private.clients import ClientsOptions, budgets, crossover, run_clients
from tools.bench.private.plots import clients_plot
from tools.bench.progress import Steps
from tools.bench.report import Row
from tools.output import console

SAMPLES = 1_438


def made_up(split_kb: float = 50.0, elements: int = 2 * SAMPLES * 32) -> list[Row]:
    """Federated rounds move 10 kB for each client."""
    return [
        {
            "clients": clients,
            "split_kb": split_kb,
            "federated_kb": 10.0 * clients,
            "split_elements": elements,
            "parameters": 9_066,
        }
        for clients in (1, 4, 8)
    ]


@pytest.mark.parametrize(("split_kb", "at"), [(50.0, 5.0), (40.0, 4.0), (5.0, 1.0), (45.0, 4.5)])
def test_the_crossover_lies_between_what_was_measured(split_kb: float, at: float) -> None:
    assert crossover(made_up(split_kb), "split_kb") == pytest.approx(at)


def test_lines_that_never_cross_are_told() -> None:
    assert crossover(made_up(100.0), "split_kb") == float("inf")
    assert "cross" not in clients_plot(made_up(100.0))
    assert "they cross at 5.0" in clients_plot(made_up())


def test_budgets_hold_or_are_missed() -> None:
    # pq/N is 5.07.
    assert [one.holds for one in budgets(made_up(), samples=SAMPLES)] == [True, True]
    assert [one.holds for one in budgets(made_up(70.0), samples=SAMPLES)] == [True, False]
    off = made_up(elements=2 * SAMPLES * 32 + 1)
    assert [one.holds for one in budgets(off, samples=SAMPLES)] == [False, True]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_real_sessions_move_what_the_formulae_say() -> None:
    with Steps(console(as_json=True)) as steps:
        rows, judged = run_clients(ClientsOptions(clients=(1, 3, 8)), steps)
    assert [one.holds for one in judged] == [True, True]
    for row in rows:
        assert row["split_elements"] == 2 * SAMPLES * 32
        assert row["split_kb"] == pytest.approx(SAMPLES * (2 * 32 * 4 + 8) / 1e3)
        assert row["federated_kb"] == pytest.approx(2 * row["clients"] * 9_066 * 4 / 1e3)
