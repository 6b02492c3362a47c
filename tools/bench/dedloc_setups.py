"""The five swarms in which the DeDLOC paper trains ALBERT-large, and what a round costs (core).

Rates are the paper's. What it does not say, or what we could not check there, is an assumption that
the options name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from averaging import Capacity, planned_seconds
from tools.bench.balance import EQUAL as EQUAL_SPANS
from tools.bench.balance import PLANNED, spans_of
from tools.bench.dedloc_flows import Transfer, transfer
from tools.bench.dedloc_program import seconds_per_byte

ELEMENTS: Final = 17_900_000
"""Parameters of ALBERT-large. Source: Lan et al., ALBERT, 2020, table 1 (18 million)."""
WIRE_BYTES: Final = 2
"""Gradients travel as float16, as in the paper's experiments."""
STATE_BYTES_PER_ELEMENT: Final = 12
"""Parameters and the two moments of LAMB in float32: what a newcomer downloads."""
_BYTES_PER_MBIT: Final = 125_000.0
# As a round cuts its vector where nobody knows how fast links are: an eighth of an equal span.
_CHUNKS_PER_SPAN: Final = 8
_CHUNK_ELEMENTS_MIN, _CHUNK_ELEMENTS_MAX = 4_096, 524_288


@dataclass(frozen=True)
class Peers:
    """So many peers of one kind, whose links are alike both ways."""

    count: int
    mbit_per_s: float
    sometimes: bool = False
    """There for a third of the time only: 8 hours of a day."""


@dataclass(frozen=True)
class Setup:
    """One swarm of the paper."""

    name: str
    trainers: tuple[Peers, ...]
    auxiliaries: tuple[Peers, ...] = ()
    balanced: bool = True
    """Whether the vector is split by plan; otherwise in equal spans."""

    def rates(self) -> list[tuple[float, bool]]:
        """Of each trainer: megabits a second, and whether it is there only sometimes."""
        return [
            (kind.mbit_per_s, kind.sometimes) for kind in self.trainers for _ in range(kind.count)
        ]

    def helpers(self) -> tuple[float, ...]:
        """Megabits a second of each auxiliary peer."""
        return tuple(kind.mbit_per_s for kind in self.auxiliaries for _ in range(kind.count))


_UNEQUAL: Final = (Peers(4, 200.0), Peers(8, 100.0), Peers(4, 50.0))
HIGH = Setup("high bandwidth", (Peers(16, 25_000.0),))
EQUAL = Setup("heterogeneous", _UNEQUAL, balanced=False)
BALANCED = Setup("heterogeneous, balanced", _UNEQUAL)
AUXILIARY = Setup("with auxiliary peers", _UNEQUAL, (Peers(4, 1_000.0),))
VARYING = Setup("time-varying", (*_UNEQUAL, Peers(8, 100.0, sometimes=True)))
SETUPS = (HIGH, EQUAL, BALANCED, AUXILIARY, VARYING)

ALIKE = Setup("16 at 50 Mbit/s", (Peers(16, 50.0),))
ALIKE_HELPED = Setup(
    "16 at 50 Mbit/s, with auxiliary peers", (Peers(16, 50.0),), (Peers(4, 1_000.0),)
)
"""Where no peer's own vector is what takes longest, helpers matter most."""


@dataclass(frozen=True)
class Cost:
    """What averaging one vector takes, in seconds."""

    transfer: Transfer
    """Simulated."""
    planned_s: float
    """Of this split, by our own plan."""
    optimum_s: float
    """Of the best split, by the paper's linear program."""


@cache
def cost_of(
    trainers: tuple[float, ...],
    helpers: tuple[float, ...],
    *,
    balanced: bool,
    elements: int = ELEMENTS,
) -> Cost:
    """Average among these, whose links have so many megabits a second."""
    capacities = [
        *_capacities(helpers, contributes=False),
        *_capacities(trainers, contributes=True),
    ]
    count = len(capacities)
    spans = spans_of(PLANNED if balanced else EQUAL_SPANS, capacities, elements)
    chunk = min(
        max(elements // count // _CHUNKS_PER_SPAN, _CHUNK_ELEMENTS_MIN), _CHUNK_ELEMENTS_MAX
    )
    rates = [mbit * _BYTES_PER_MBIT for mbit in (*helpers, *trainers)]
    return Cost(
        transfer(
            rates,
            rates,
            [one.contributes for one in capacities],
            [float(WIRE_BYTES * length) for length in spans],
            chunk_bytes=float(WIRE_BYTES * chunk),
        ),
        max(planned_seconds(capacities, spans, WIRE_BYTES)),
        seconds_per_byte(capacities) * WIRE_BYTES * elements,
    )


def download_s(mbit_per_s: float, elements: int) -> float:
    """How long a newcomer downloads the state of the training."""
    return elements * STATE_BYTES_PER_ELEMENT / (mbit_per_s * _BYTES_PER_MBIT)


def _capacities(mbit_per_s: Sequence[float], *, contributes: bool) -> list[Capacity]:
    rates = [mbit * _BYTES_PER_MBIT for mbit in mbit_per_s]
    return [Capacity(contributes, True, rate, rate) for rate in rates]
