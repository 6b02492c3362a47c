"""The paper's swarms: what theory says, their order in a small simulation, what is judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from tools.bench import dedloc
from tools.bench.dedloc_averager import rounds_over_links
from tools.bench.dedloc_plot import plots
from tools.bench.dedloc_setups import (
    ALIKE,
    ALIKE_HELPED,
    AUXILIARY,
    BALANCED,
    ELEMENTS,
    EQUAL,
    HIGH,
    SETUPS,
    VARYING,
    WIRE_BYTES,
    Cost,
    Setup,
    cost_of,
)
from tools.bench.dedloc_swarm import Step
from tools.bench.dedloc_world import DELAYED, SYNCHRONOUS, Assumptions, over_time, simulate
from tools.bench.report import Row

MBIT = WIRE_BYTES * ELEMENTS / 125_000
"""Of the whole vector on the wire."""
SMALL = Assumptions(global_batch=256, samples_per_s=2.0, micro_batch=8, steps=3, hours=0.1)


def cost(setup: Setup) -> Cost:
    rates = tuple(mbit for mbit, _ in setup.rates())
    return cost_of(rates, setup.helpers(), balanced=setup.balanced)


# 1 + (C - 2) w of the slowest, or its own vector alone; equal spans are 1/16.
@pytest.mark.parametrize(
    ("setup", "planned_s", "optimum_s"),
    [
        (HIGH, 1.875 * MBIT / 25_000, 1.875 * MBIT / 25_000),
        (EQUAL, 1.875 * MBIT / 50, MBIT / 50),
        (BALANCED, MBIT / 50, MBIT / 50),
        (AUXILIARY, MBIT / 50, MBIT / 50),
        (VARYING, MBIT / 50, MBIT / 50),
        (ALIKE, 1.875 * MBIT / 50, 1.875 * MBIT / 50),
        (ALIKE_HELPED, MBIT / 50, MBIT / 50),
    ],
    ids=lambda value: value.name if isinstance(value, Setup) else "",
)
def test_what_theory_says(setup: Setup, planned_s: float, optimum_s: float) -> None:
    found = cost(setup)
    # Spans are whole cells of a grid.
    assert found.planned_s == pytest.approx(planned_s, rel=5e-3)
    assert found.optimum_s == pytest.approx(optimum_s, rel=1e-6)
    # Flows that nobody steers take a little longer than a plan that may send at will.
    assert planned_s * (1 - 1e-6) <= found.transfer.seconds <= 1.25 * found.planned_s


@pytest.fixture(scope="module")
def simulated() -> dict[tuple[str, str], Row]:
    return {
        (setup.name, how): simulate(setup, how, SMALL)
        for setup in SETUPS
        for how in (SYNCHRONOUS, DELAYED)
    }


@pytest.mark.slow
def test_the_setups_come_in_the_papers_order(simulated: dict[tuple[str, str], Row]) -> None:
    synchronous, delayed = (
        [simulated[setup.name, how] for setup in SETUPS] for how in (SYNCHRONOUS, DELAYED)
    )
    transfers = [row["transfer_seconds"] for row in synchronous]
    assert transfers[1] > transfers[2] > transfers[3] > transfers[0]
    speeds = [row["samples_per_s"] for row in synchronous]
    assert speeds[1] < speeds[2] < speeds[3] < speeds[0]
    assert speeds[4] > speeds[2]
    for slow, fast in zip(synchronous, delayed, strict=True):
        assert fast["step_seconds"] < slow["step_seconds"]
        assert slow["step_per_theory"] > 1.0
    assert synchronous[4]["peers"] == 24


def test_a_seed_decides_a_row() -> None:
    one, same = (simulate(BALANCED, SYNCHRONOUS, SMALL) for _ in range(2))
    assert one == same
    assert one != simulate(BALANCED, SYNCHRONOUS, replace(SMALL, seed=1))


def test_samples_are_spread_over_the_time_they_took() -> None:
    steps = [
        Step(over_at_s, (), samples, 0, 0, 0) for over_at_s, samples in ((4, 8), (5, 10), (8, 3))
    ]
    assert over_time(steps, 8, parts=4) == pytest.approx([2, 2, (10 + 1) / 2, 1])


def judged(**changes: Any) -> list[bool]:
    """Budgets of rows that just hold, but for what is changed."""
    seconds = {
        (EQUAL.name, SYNCHRONOUS): 3.0,
        (BALANCED.name, SYNCHRONOUS): 2.0,
        (AUXILIARY.name, SYNCHRONOUS): 2.0,
        (VARYING.name, SYNCHRONOUS): 2.0,
        (ALIKE.name, dedloc.TRANSFER_ONLY): 3.0,
        (ALIKE_HELPED.name, dedloc.TRANSFER_ONLY): 2.0,
        (EQUAL.name, dedloc.BARE): 3.6,
        (BALANCED.name, dedloc.BARE): 2.4,
        (AUXILIARY.name, dedloc.BARE): 2.4,
        ("small", dedloc.AVERAGER): 2.4,
    }
    rows: list[Row] = []
    for (setup, how), transfer_s in seconds.items():
        row: Row = {
            "setup": setup,
            "how": how,
            "transfer_seconds": transfer_s,
            "planned_seconds": 3.0 if setup == EQUAL.name else 2.0,
            "transfer_per_optimum": 1.2,
            "whole_rounds_fraction": 1.0,
        }
        if how == SYNCHRONOUS:
            row |= {"step_per_theory": 1.2, "samples_per_s": 106 if setup == VARYING.name else 100}
        name = f"{setup}, {how}"
        rows.append(row | changes.get(name, {}))
    return [one.holds for one in dedloc.budgets(rows)]


def test_what_just_holds_holds() -> None:
    assert judged() == [True] * 10


@pytest.mark.parametrize(
    ("where", "what", "missed"),
    [
        ((VARYING.name, SYNCHRONOUS), {"step_per_theory": 1.21}, [0]),
        ((EQUAL.name, SYNCHRONOUS), {"transfer_seconds": 2.9}, [1]),
        ((AUXILIARY.name, SYNCHRONOUS), {"transfer_seconds": 2.1}, [2]),
        ((ALIKE.name, dedloc.TRANSFER_ONLY), {"transfer_seconds": 2.9}, [3]),
        ((VARYING.name, SYNCHRONOUS), {"samples_per_s": 104}, [4]),
        ((EQUAL.name, dedloc.BARE), {"transfer_seconds": 2.3}, [5, 6]),
        ((AUXILIARY.name, dedloc.BARE), {"transfer_seconds": 2.6}, [5, 7]),
        (("small", dedloc.AVERAGER), {"transfer_per_optimum": 1.25}, [8]),
        (("small", dedloc.AVERAGER), {"whole_rounds_fraction": 0.5}, [9]),
    ],
)
def test_each_miss_is_seen(
    where: tuple[str, str], what: dict[str, float], missed: list[int]
) -> None:
    found = judged(**{", ".join(where): what})
    assert [number for number, holds in enumerate(found) if not holds] == missed


@pytest.mark.slow
def test_plots_have_a_point_for_each_setup(simulated: dict[tuple[str, str], Row]) -> None:
    drawn = plots(list(simulated.values()), SMALL.hours)
    assert list(drawn) == ["dedloc-steps.svg", "dedloc-transfers.svg", "dedloc-day.svg"]
    circles = [
        len(list(ElementTree.fromstring(one).iter("{http://www.w3.org/2000/svg}circle")))
        for one in drawn.values()
    ]
    # Each series of marks has one more in the legend; nothing was measured.
    assert circles == [3 * (5 + 1), (5 + 1) + 1, 0]


@pytest.mark.slow
async def test_what_is_measured_has_a_row() -> None:
    options = dedloc.DedlocOptions(
        elements=9_000, bytes_per_s=1e9, averager_elements=50_000, averager_rounds=2
    )
    for setup, split, scaled in dedloc.SCALED:
        row = await dedloc.measure(setup, split, scaled, options)
        assert (row["setup"], row["how"]) == (setup.name, dedloc.BARE)
        assert row["transfer_seconds"] > 0
    row = await dedloc.measure_averager(options)
    assert len(row["round_seconds"]) == 2
    assert row["transfer_seconds"] == row["round_seconds"][1]
    assert row["planned_seconds"] == pytest.approx(row["optimum_seconds"], rel=0.1)


@pytest.mark.slow
async def test_our_averager_is_right_over_unequal_links() -> None:
    rounds = await rounds_over_links([4e7, 2e7, 1e7], 100_000, 2, round_s_max=30)
    for number, one in enumerate(rounds):
        assert f"round {number} success" in one.report
        assert one.seconds > 0
    # Here the links are no trouble, and nobody's vector is missing.
    assert rounds[0].whole
