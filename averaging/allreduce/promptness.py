"""Promptness: which aggregators a member waits for too long (core).

An aggregator that is alive and says nothing of use, or hardly anything, would hold up everybody
until the deadline. How long it may take, the others show: half of the aggregators are done after a
time t; each of the rest has half of that again, and a moment of grace.

    aggregator  event                                       then
    due         all its pieces are held                     done
    due         half of all are done, 0.5·t and grace past  late: its pieces are lost, also at it
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

_LATITUDE: Final = 1.5


class Promptness(Generic[Peer]):
    """Ticked some times a second from when our own values are final.

    Args:
        begun_at_s: when they were.
        grace_s: hiccups up to this long are nobody's fault.
    """

    def __init__(self, begun_at_s: float, *, grace_s: float) -> None:
        self._begun_at_s = begun_at_s
        self._grace_s = grace_s
        self._half_done_at_s: float | None = None

    def on_tick(self, now_s: float, *, done: Collection[Peer], due: Collection[Peer]) -> list[Peer]:
        """Who is too slow now.

        Args:
            done: aggregators all of whose pieces we hold.
            due: those from whom some are still to come.
        """
        if self._half_done_at_s is None:
            if len(done) < len(due):
                return []
            self._half_done_at_s = now_s
        taken_s = self._half_done_at_s - self._begun_at_s
        late = now_s > self._begun_at_s + _LATITUDE * taken_s + self._grace_s
        return list(due) if late else []
