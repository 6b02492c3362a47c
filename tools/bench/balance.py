"""`manyhands bench balance`: the planned split of the vector beside equal spans and one server.

The swarms are those of the DeDLOC paper, over real TCP streams on loopback whose peers' links are
limited. The exchange is bare, not our averager: it is about what a split costs, with nothing else
in the time, and a server that nobody would accept as a plan can be measured beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import trio

from averaging import Capacity, plan_spans, planned_seconds
from tools.bench.butterfly import Vector, seconds_to_average
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = ("setup", "split", "owners", "planned_seconds", "seconds", "seconds_per_planned", "tries")
PLANNED, EQUAL, SERVER = "planned", "equal spans", "one server"
SPLITS = (PLANNED, EQUAL, SERVER)
DEVIATION_MAX = 0.2
"""Of the measured time from the theory's."""
SPEEDUP_MIN = 1.5
"""Of the plan over equal spans where half of the peers are slow; the theory says 1.75."""
FLOAT32_BYTES = 4
TRIES_MAX = 3
"""Of a case that took too long: whatever else runs here only adds to the time of limited links."""
_UNHURRIED = 10.0


@dataclass(frozen=True)
class BalanceOptions:
    """How much is measured."""

    elements: int = 262_144
    rate_bytes_per_s: float = 500_000.0
    """Of a peer of speed 1."""


@dataclass(frozen=True)
class Setup:
    """A swarm of the paper: each member's speed in a common unit."""

    name: str
    nodes: tuple[float, ...]
    clients: tuple[float, ...] = ()
    aux: tuple[float, ...] = ()

    def capacities(self, unit_bytes_per_s: float) -> list[Capacity]:
        """Of the members: auxiliary peers, nodes, clients; each kind with its fastest first."""
        kinds = ((self.aux, False, True), (self.nodes, True, True), (self.clients, True, False))
        return [
            Capacity(contributes, aggregates, speed * unit_bytes_per_s, speed * unit_bytes_per_s)
            for speeds, contributes, aggregates in kinds
            for speed in speeds
        ]


HALF_SLOW = "4 at 1, 4 at 0.2"
SETUPS = (
    Setup("8 at 1", nodes=(1.0,) * 8),
    Setup("1 at 10, 7 at 1", nodes=(10.0, *(1.0,) * 7)),
    Setup("auxiliary at 10, 8 at 1", nodes=(1.0,) * 8, aux=(10.0,)),
    Setup(HALF_SLOW, nodes=(*(1.0,) * 4, *(0.2,) * 4)),
    Setup("4 at 1, 4 clients at 1", nodes=(1.0,) * 4, clients=(1.0,) * 4),
)


def spans_of(split: str, capacities: Sequence[Capacity], element_count: int) -> tuple[int, ...]:
    """Elements for each member that aggregates, in order; the server is the first of them."""
    owner_count = sum(one.aggregates for one in capacities)
    if split == PLANNED:
        return plan_spans(capacities, element_count)
    if split == SERVER:
        return (element_count, *[0] * (owner_count - 1))
    stops = [element_count * number // owner_count for number in range(owner_count + 1)]
    return tuple(stop - start for start, stop in pairwise(stops))


def run_balance(options: BalanceOptions, steps: Steps) -> Report:
    """Measure each split in each setup, one after the other."""
    report = Report("balance", COLUMNS)
    steps.expect(len(SETUPS) * len(SPLITS))
    for setup in SETUPS:
        for split in SPLITS:
            steps.case(f"{setup.name}, {split}")
            report.rows.append(trio.run(measure, setup, split, options))
            steps.step()
    report.budgets = budgets(report.rows)
    return report


async def measure(setup: Setup, split: str, options: BalanceOptions) -> Row:
    """One case: the fastest of its tries."""
    capacities = setup.capacities(options.rate_bytes_per_s)
    spans = spans_of(split, capacities, options.elements)
    planned_s = max(planned_seconds(capacities, spans, FLOAT32_BYTES))
    vectors = _vectors(sum(one.contributes for one in capacities), options.elements)
    lengths = _by_member(spans, capacities)
    timeout_s = _UNHURRIED * (planned_s + 1)
    times: list[float] = []
    while len(times) < TRIES_MAX and (not times or min(times) > (1 + DEVIATION_MAX) * planned_s):
        times.append(await seconds_to_average(capacities, lengths, vectors, timeout_s=timeout_s))
    seconds = min(times)
    return {
        "setup": setup.name,
        "split": split,
        "owners": sum(length > 0 for length in spans),
        "span_elements": list(spans),
        "planned_seconds": planned_s,
        "seconds": seconds,
        "seconds_per_planned": seconds / planned_s,
        "tries": len(times),
    }


def _by_member(spans: Sequence[int], capacities: Sequence[Capacity]) -> list[int]:
    lengths = iter(spans)
    return [next(lengths) if one.aggregates else 0 for one in capacities]


def _vectors(count: int, element_count: int) -> list[Vector]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(element_count, dtype=np.float32) for _ in range(count)]


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the promises."""
    deviation = max(abs(row["seconds_per_planned"] - 1) for row in rows)
    seconds = {row["split"]: row["seconds"] for row in rows if row["setup"] == HALF_SLOW}
    speedup = seconds[EQUAL] / seconds[PLANNED]
    return [
        Budget("farthest from the theory", deviation, DEVIATION_MAX, "of its time", "<="),
        Budget(
            f"{HALF_SLOW}: the plan against equal spans",
            speedup,
            SPEEDUP_MIN,
            "times as fast",
            ">=",
        ),
    ]
