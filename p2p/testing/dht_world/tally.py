"""What a simulated DHT came to: gets by phase, hops, times, messages, and how load is spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from p2p.testing.dht_world.network import Kind, Purpose


@dataclass(slots=True)
class PhaseFigures:
    """The gets of a time in which the network was of one kind."""

    name: str
    gets: int = 0
    found: int = 0
    """The newest version that its owner had been told was stored, or a newer one."""
    stale: int = 0
    missing: int = 0
    forged: int = 0
    """Believed forgeries: there must be none."""
    hops: Counter[int] = field(default_factory=Counter)
    queries: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def success(self) -> float:
        """The share of gets that found what they should; 1 if there were none."""
        return self.found / self.gets if self.gets else 1.0

    @property
    def hops_median(self) -> int:
        """Half of all gets need no more."""
        return _quantile_of(self.hops, 0.5)

    @property
    def hops_p99(self) -> int:
        """99 of 100 gets need no more."""
        return _quantile_of(self.hops, 0.99)

    @property
    def queries_median(self) -> int:
        """Half of all gets ask no more peers."""
        return _quantile_of(self.queries, 0.5)


@dataclass(frozen=True, slots=True)
class Spread:
    """How unequal some amounts are."""

    mean: float
    median: float
    p99: float
    largest: float
    gini: float
    """0 if all are alike, towards 1 if one has all."""


@dataclass(slots=True)
class SwarmFigures:
    """All that is known at the end; messages and load are of the measured time alone."""

    nodes_at_end: int
    phases: list[PhaseFigures]
    puts: int
    put_replicas_mean: float
    departures: int
    failed_joins: int
    calls_per_node_h: dict[str, float]
    """Calls by purpose and kind, as in "upkeep ping"."""
    messages_per_node_h: float
    """Requests and answers that were sent, lost ones included."""
    served_per_node_h: Spread
    """Calls that each node was asked, of nodes that were there all the time."""
    records_held: Spread
    """By honest nodes, at the end."""
    contacts: Spread
    """In the routing tables of honest nodes, at the end."""
    events: int

    @property
    def whole(self) -> PhaseFigures:
        """The gets of all phases but the partition itself."""
        total = PhaseFigures("all but the partition")
        for phase in self.phases:
            if phase.name == "partition":
                continue
            total.gets += phase.gets
            total.found += phase.found
            total.stale += phase.stale
            total.missing += phase.missing
            total.forged += phase.forged
            total.hops += phase.hops
            total.queries += phase.queries
            total.seconds += phase.seconds
        return total


def percentile(amounts: Sequence[float], percent: int) -> float:
    """Of some amounts; 0 of none."""
    if len(amounts) < 2:
        return amounts[0] if amounts else 0.0
    return quantiles(amounts, n=100, method="inclusive")[percent - 1]


def spread_of(amounts: Sequence[float]) -> Spread:
    """How unequal these are.

    Source: C. Gini, Variabilità e mutabilità, 1912; half the relative mean absolute difference.
    """
    if not amounts:
        return Spread(0, 0, 0, 0, 0)
    ordered = sorted(amounts)
    count, total = len(ordered), sum(ordered)
    weighted = sum((2 * rank - count - 1) * one for rank, one in enumerate(ordered, 1))
    gini = weighted / (count * total) if total else 0.0
    return Spread(
        total / count, percentile(ordered, 50), percentile(ordered, 99), ordered[-1], gini
    )


def calls_by_name(calls: Sequence[Sequence[int]]) -> dict[str, int]:
    """Counts by purpose and kind, by their names."""
    return {
        f"{purpose.name.lower()} {kind.name.lower()}": calls[purpose][kind]
        for purpose in Purpose
        for kind in Kind
        if calls[purpose][kind]
    }


def _quantile_of(counts: Counter[int], share: float) -> int:
    seen, wanted = 0, counts.total() * share
    for amount in sorted(counts):
        seen += counts[amount]
        if seen >= wanted:
            return amount
    return 0
