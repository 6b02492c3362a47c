"""The benchmark of splits: its theory is the paper's, and its exchange averages right."""

from __future__ import annotations

import numpy as np
import pytest
import trio

from averaging import Capacity, planned_seconds
from tools.bench import balance
from tools.bench.butterfly import seconds_to_average
from tools.bench.pipes import Link, Peer, connect, hang_up
from tools.bench.report import Row

ELEMENTS = 524_288
# DeDLOC's table; equal spans among nine, one of them auxiliary, and one server of eight follow
# from 1 + (C - 2) w.
THEORY = {
    "8 at 1": (1.75, 1.75, 7.0),
    "1 at 10, 7 at 1": (1.0, 1.75, 1.0),
    "auxiliary at 10, 8 at 1": (1.0, 1 + 6 / 9, 1.0),
    "4 at 1, 4 at 0.2": (5.0, 8.75, 7.0),
    "4 at 1, 4 clients at 1": (2.5, 2.5, 7.0),
}


@pytest.mark.parametrize("setup", balance.SETUPS, ids=lambda setup: setup.name)
def test_the_theory_is_the_papers(setup: balance.Setup) -> None:
    capacities = setup.capacities(1.0)
    times = [
        max(planned_seconds(capacities, balance.spans_of(split, capacities, ELEMENTS), 1))
        for split in balance.SPLITS
    ]
    assert [time / ELEMENTS for time in times] == pytest.approx(THEORY[setup.name], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("setup", balance.SETUPS, ids=lambda setup: setup.name)
@pytest.mark.parametrize("split", balance.SPLITS)
async def test_every_case_is_measured(setup: balance.Setup, split: str) -> None:
    row = await balance.measure(setup, split, balance.BalanceOptions(9_000, 1e9))
    assert row["seconds"] > 0
    assert sum(row["span_elements"]) == 9_000
    assert set(balance.COLUMNS) <= set(row)


async def test_a_case_that_hangs_is_ended() -> None:
    capacities = [Capacity(True, True, 1.0, 1.0)] * 2
    vectors = [np.zeros(100_000, np.float32)] * 2
    with pytest.raises(trio.TooSlowError):
        await seconds_to_average(capacities, [100_000, 0], vectors, timeout_s=0.01)


async def test_links_need_a_rate() -> None:
    unknown = [Capacity(True, True, None, None)] * 2
    with pytest.raises(ValueError, match="needs a rate"):
        await seconds_to_average(unknown, [1, 0], [np.zeros(1, np.float32)] * 2, timeout_s=1)


async def test_a_link_carries_so_many_bytes_a_second(autojump_clock: object) -> None:
    link = Link(1_000.0)
    begun_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(link.carry, 400)
    assert trio.current_time() - begun_s == pytest.approx(2.0)
    # Idle time is not saved up.
    await trio.sleep(100.0)
    begun_s = trio.current_time()
    await link.carry(1_000)
    assert trio.current_time() - begun_s == pytest.approx(0.95)


async def test_a_stream_that_ends_early_is_told() -> None:
    peers = [Peer(Link(1e9), Link(1e9)) for _ in range(2)]
    await connect(peers, 0, 1)
    await peers[0].send((0, 1), memoryview(b"abc"))
    await peers[0].streams[0, 1].aclose()
    with pytest.raises(trio.BrokenResourceError, match="hung up"):
        await peers[1].receive((0, 1), 4)
    await hang_up(peers)


def rows(planned_s: float, equal_s: float, *, deviation: float = 0.1) -> list[Row]:
    """As measured, in the setup that is judged and in another."""
    return [
        {
            "setup": setup,
            "split": split,
            "seconds": seconds,
            "seconds_per_planned": 1 + deviation,
        }
        for setup in ("8 at 1", balance.HALF_SLOW)
        for split, seconds in (
            (balance.PLANNED, planned_s),
            (balance.EQUAL, equal_s),
            (balance.SERVER, 9.0),
        )
    ]


@pytest.mark.parametrize(
    ("measured", "holds"),
    [
        (rows(2.0, 3.0), [True, True]),
        (rows(2.0, 2.9), [True, False]),
        (rows(2.0, 3.0, deviation=0.21), [False, True]),
        (rows(2.0, 3.0, deviation=-0.21), [False, True]),
    ],
)
def test_the_plan_is_judged_against_theory_and_equal_spans(
    measured: list[Row], holds: list[bool]
) -> None:
    assert [one.holds for one in balance.budgets(measured)] == holds
