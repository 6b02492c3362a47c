"""What a split of the vector gives each member to carry, and what limits it (core)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Pairs: TypeAlias = Mapping[tuple[int, int], float]
"""Bytes a second from one member to another."""
SLACK: Final = 1e-9
"""Of sums of floats: a whole may come out as a little less."""
# A link so much slower than the plan carries nothing; solvers drop such numbers by themselves.
_RATE_MIN: Final = 1e-9


@dataclass(frozen=True)
class Row:
    """Of the linear program: Σ coefficient × share + time × T ≤ limit."""

    shares: tuple[tuple[int, float], ...]
    """Member and coefficient."""
    time: float
    limit: float


@dataclass(frozen=True)
class Problem:
    """What is known of the members, with gaps filled."""

    contributes: tuple[int, ...]
    """c of each member."""
    slopes: tuple[int, ...]
    """C − 2c of each: how its load grows with its share."""
    rates: tuple[float, ...]
    """Of each member's narrower direction; 0: nobody waits for it."""
    owners: tuple[int, ...]
    """Who can have a share."""
    pairs: Pairs
    rates_known: bool

    def load(self, i: int, share: float) -> float:
        """What a member sends, and receives, in vectors."""
        return self.contributes[i] + self.slopes[i] * share

    def reaches_all(self, owner: int) -> bool:
        """Whether an owner has a path from and to every contributor."""
        return all(
            self.pairs.get((i, owner), 1) and self.pairs.get((owner, i), 1)
            for i, contributes in enumerate(self.contributes)
            if contributes and i != owner
        )

    def seconds(self, shares: Sequence[float]) -> float:
        """T of these shares for each byte of the vector: the slowest member's or link's."""
        times = [
            self.load(i, shares[i]) / rate
            for i, rate in enumerate(self.rates)
            if rate and (self.contributes[i] or shares[i])
        ]
        for (source, target), rate in self.pairs.items():
            # Parts of the target's share, and averages of the source's.
            load = self.contributes[source] * shares[target]
            load += self.contributes[target] * shares[source]
            if load > SLACK:
                times.append(load / rate if rate else math.inf)
        return max(times, default=0.0)

    def rows(self, scale_s: float) -> list[Row]:
        """load / rate ≤ T, for each member and each limited link; times in the given unit."""
        rows = [
            self._row([(i, self.slopes[i])], self.contributes[i], rate * scale_s)
            for i, rate in enumerate(self.rates)
            if rate
        ]
        for (source, target), rate in sorted(self.pairs.items()):
            entries = [(target, self.contributes[source]), (source, self.contributes[target])]
            rows.append(self._row(entries, 0, rate * scale_s))
        return rows

    def aggregating_rows(self, scale_s: float) -> list[Row]:
        """slope × share / rate ≤ T, for each owner."""
        return [self._row([(i, self.slopes[i])], 0, self.rates[i] * scale_s) for i in self.owners]

    @staticmethod
    def _row(entries: list[tuple[int, int]], constant: int, rate: float) -> Row:
        if rate < _RATE_MIN:
            return Row(tuple((i, float(value)) for i, value in entries), 0.0, 0.0)
        return Row(tuple((i, value / rate) for i, value in entries), -1.0, -constant / rate)
