"""What a series of pings tells: latency by path, and losses (core)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from p2p import Path


@dataclass(frozen=True)
class Latency:
    """The round trips on one path."""

    count: int
    least_s: float
    median_s: float
    p95_s: float


@dataclass
class Pings:
    """A series of pings to one peer; the path may change on the way."""

    sent: int = 0
    round_trips_s: dict[Path, list[float]] = field(default_factory=dict)

    def on_answer(self, path: Path, round_trip_s: float) -> None:
        """An answer came."""
        self.sent += 1
        self.round_trips_s.setdefault(path, []).append(round_trip_s)

    def on_lost(self) -> None:
        """No answer came."""
        self.sent += 1

    @property
    def lost(self) -> int:
        """How many were not answered."""
        return self.sent - sum(map(len, self.round_trips_s.values()))

    @property
    def loss(self) -> float:
        """The share that was not answered, from 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0

    def latencies(self) -> dict[Path, Latency]:
        """By path, in the order in which the paths were first taken."""
        return {
            path: Latency(len(trips), min(trips), median(trips), percentile(trips, 0.95))
            for path, trips in self.round_trips_s.items()
        }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed.

    Source: the nearest-rank method.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
