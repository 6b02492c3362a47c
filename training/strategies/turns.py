"""Who trains in which round, where only some of those who are there are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True)
class Lottery:
    """Draws some peers for each round; nobody decides who, and everybody can check it."""

    fraction: float
    """How many of those who are there are drawn; at least one is."""
    seed: int

    def drawn(self, number: int, peers: Sequence[str]) -> tuple[str, ...]:
        """Those whose hash with seed and round is smallest.

        Peers that know of different others may draw a few different ones; then some more or fewer
        train.
        """
        ranked = sorted(
            peers,
            key=lambda peer: hashlib.sha256(f"{self.seed}\0{number}\0{peer}".encode()).digest(),
        )
        return tuple(ranked[: ceil(self.fraction * len(ranked))])


class Turns:
    """Whether it is this peer's turn; without a lottery it always is."""

    def __init__(self, me: str, lottery: Lottery | None) -> None:
        self._me = me
        self._lottery = lottery
        self._peers: tuple[str, ...] = (me,)
        self._drawn: tuple[str, ...] | None = None
        self._number = 0

    @property
    def mine(self) -> bool:
        """Whether this peer trains now."""
        return self._drawn is None or self._me in self._drawn

    @property
    def trainers(self) -> int:
        """How many do; at least 1."""
        return max(1, len(self._peers if self._drawn is None else self._drawn))

    def on_interval(self, number: int) -> None:
        """Others may be drawn."""
        self._number = number
        self.on_peers(self._peers)

    def on_peers(self, peers: Sequence[str]) -> None:
        """Where a drawn one is gone, the next is drawn."""
        self._peers = tuple(peers)
        if self._lottery is not None:
            self._drawn = self._lottery.drawn(self._number, self._peers)


def check_fraction(fraction: float) -> None:
    """Raise ValueError unless this is a part of the peers that can be drawn."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}")
