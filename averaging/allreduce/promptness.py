"""Promptness: which aggregators a member waits for too long (core).

An aggregator that is alive and says nothing of use, or hardly anything, would hold up everybody
until the deadline. How long it may take, the others show: half of the aggregators are done after a
time t, when a share s of what is to come is there; each of the rest has half of t / s again, and a
moment of grace. Where our own link is what is slow, s tells: what comes one after the other is
expected so, too, though not for longer than four times t.

    aggregator  event                                         then
    due         all its pieces are held                       done
    due         half of all are done, 1.5·t/s and grace past  late: its pieces are lost, also at it
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

_LATITUDE: Final = 1.5
_SHARE_MIN: Final = 0.25
"""So that one that sends next to nothing is not waited for without end."""


class Promptness(Generic[Peer]):
    """Ticked some times a second from when our own values are final.

    Args:
        begun_at_s: when they were.
        grace_s: hiccups up to this long are nobody's fault.
    """

    def __init__(self, begun_at_s: float, *, grace_s: float) -> None:
        self._begun_at_s = begun_at_s
        self._grace_s = grace_s
        self._late_at_s: float | None = None

    def on_tick(
        self, now_s: float, *, done: Collection[Peer], due: Collection[Peer], share: float
    ) -> list[Peer]:
        """Who is too slow now.

        Args:
            done: aggregators all of whose pieces we hold.
            due: those from whom some are still to come.
            share: how much of what all others send us is here, from 0 to 1.
        """
        if self._late_at_s is None:
            if len(done) < len(due):
                return []
            taken_s = (now_s - self._begun_at_s) / max(share, _SHARE_MIN)
            self._late_at_s = self._begun_at_s + _LATITUDE * taken_s + self._grace_s
        return list(due) if now_s > self._late_at_s else []
