"""Bytes by number of clients: where the lines cross, and sessions that move what formulae say."""

from __future__ import annotations

import pytest

from tools.bench.private.clients import ClientsOptions, budgets, crossover, run_clients
from tools.bench.private.plots import clients_plot
from tools.bench.progress import Steps
from tools.bench.report import Row
from tools.output import console

SAMPLES, PARAMETERS = 1_438, 9_066


def made_up(split_kb: float = 50.0, **changed: int) -> list[Row]:
    """Federated rounds move 10 kB for each client after the first."""
    return [
        {
            "clients": clients,
            "split_kb": split_kb,
            "federated_kb": 10.0 * (clients - 1),
            "formula_kb": 10.0 * clients,
            "split_elements": 2 * SAMPLES * 32,
            "federated_elements": 2 * (clients - 1) * PARAMETERS,
            "parameters": PARAMETERS,
        }
        | changed
        for clients in (2, 5, 9)
    ]


@pytest.mark.parametrize(("split_kb", "at"), [(50.0, 6.0), (40.0, 5.0), (5.0, 2.0), (45.0, 5.5)])
def test_the_crossover_lies_between_what_was_measured(split_kb: float, at: float) -> None:
    assert crossover(made_up(split_kb)) == pytest.approx(at)


def test_lines_that_never_cross_are_told() -> None:
    assert crossover(made_up(100.0)) == float("inf")
    assert "cross" not in clients_plot(made_up(100.0))
    assert "they cross at 6.0" in clients_plot(made_up())


@pytest.mark.parametrize(
    ("rows", "missed"),
    [
        # pq/N + 1 is 6.08.
        (made_up(), None),
        (made_up(44.0), 2),
        (made_up(57.0), 2),
        (made_up(1000.0), 2),
        (made_up(split_elements=2 * SAMPLES * 32 + 1), 0),
        (made_up(federated_elements=2 * PARAMETERS), 1),
    ],
)
def test_budgets_hold_or_are_missed(rows: list[Row], missed: int | None) -> None:
    held = [one.holds for one in budgets(rows, samples=SAMPLES)]
    assert held == [number != missed for number in range(3)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_real_sessions_and_rounds_move_what_the_formulae_say() -> None:
    with Steps(console(as_json=True)) as steps:
        rows, judged = run_clients(ClientsOptions(clients=(2, 3, 7)), steps)
    assert [one.holds for one in judged] == [True, True, True]
    for row in rows:
        assert row["split_elements"] == 2 * SAMPLES * 32
        assert row["split_kb"] == pytest.approx(SAMPLES * (2 * 32 * 4 + 8) / 1e3)
        assert row["federated_kb"] == pytest.approx(2 * (row["clients"] - 1) * PARAMETERS * 4 / 1e3)
        assert row["formula_kb"] == pytest.approx(2 * row["clients"] * PARAMETERS * 4 / 1e3)
