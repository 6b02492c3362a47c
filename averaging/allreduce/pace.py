"""Pace: which senders an aggregator waits for too long (core).

A sender is slow in its own right only while we listen to it and it has nothing for us: whoever is
held back by others is not. So each sender's clock runs only while a chunk waits for it. With T its
planned time for all chunks, and k how much longer than planned a typical sender takes (at least 1),
it may take twice k·T for the share it has delivered, and a moment of grace:

    clock > grace + 2·k·T·(delivered + 1) / all        falls behind, and is left out from there on

    sender      event                                      then
    missing     it declares its weight                     idle
    missing     most have begun, start_patience_s ago      excluded: did not begin
    idle        all have begun, and a chunk waits for it   awaited: its clock runs
    awaited     its part of the chunk comes                idle: its clock stands
    awaited     its clock is over what its share allows    excluded: too slow

A typical k keeps a swarm on overloaded machines from throwing out everybody. One that never begins
is left out so long after most of the others have begun.
Source: the pace rule follows the adaptive averaging of DeDLOC (Diskin et al. 2021, section 3.2),
whose plan gives T.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Hashable, Mapping
from typing import Final, Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

_LATITUDE: Final = 2.0
# A tick that comes late, since we were busy or frozen, says nothing about the others.
_TICK_S_MAX: Final = 1.0


class Pace(Generic[Peer]):
    """Ticked some times a second while the aggregator reduces.

    Args:
        planned_s: for each sender, how long its transfers take by the plan; may be infinite.
        grace_s: hiccups up to this long are nobody's fault.
        start_patience_s: how long a sender may begin after most of the others.
        allowed_s_max: a sender's clock never runs longer, whatever was planned, so that the others
            end well before their deadline.
    """

    def __init__(
        self,
        planned_s: Mapping[Peer, float],
        *,
        grace_s: float,
        start_patience_s: float,
        allowed_s_max: float,
    ) -> None:
        self._planned_s = dict(planned_s)
        self._grace_s = grace_s
        self._start_patience_s = start_patience_s
        self._allowed_s_max = allowed_s_max
        self._waited_s = dict.fromkeys(planned_s, 0.0)
        self._ticked_at_s: float | None = None
        self._begun_at_s: float | None = None

    def on_tick(
        self,
        now_s: float,
        *,
        missing: Collection[Peer],
        awaited: Collection[Peer],
        delivered: Mapping[Peer, int],
        chunk_count: int,
    ) -> dict[Peer, str]:
        """Whom to exclude now, and why.

        Args:
            missing: senders that have not declared their weight.
            awaited: senders that have, and for whom the next chunk waits.
            delivered: chunks that came from each sender.
            chunk_count: chunks that each sends us in all.
        """
        passed_s = 0.0
        if self._ticked_at_s is not None:
            passed_s = min(now_s - self._ticked_at_s, _TICK_S_MAX)
        self._ticked_at_s = now_s
        slow = self._never_begun(now_s, missing)
        if not missing:
            for peer in awaited:
                self._waited_s[peer] += passed_s
        typical = self._typical(delivered, chunk_count)
        for peer in awaited:
            share = (delivered[peer] + 1) / max(chunk_count, 1)
            allowed_s = _LATITUDE * typical * self._planned_s[peer] * min(share, 1.0)
            if self._waited_s[peer] > self._grace_s + min(allowed_s, self._allowed_s_max):
                slow[peer] = "too slow"
        return slow

    def _never_begun(self, now_s: float, missing: Collection[Peer]) -> dict[Peer, str]:
        if 2 * len(missing) > len(self._planned_s):
            return {}
        if self._begun_at_s is None:
            self._begun_at_s = now_s
        if not missing or now_s < self._begun_at_s + self._start_patience_s:
            return {}
        return {peer: "did not begin" for peer in missing}

    def _typical(self, delivered: Mapping[Peer, int], chunk_count: int) -> float:
        """By which factor the median sender takes longer than planned; at least 1."""
        if not chunk_count:
            # A plan gave all that was ours to others.
            return 1.0
        factors = [
            self._waited_s[peer] / (planned_s * delivered[peer] / chunk_count)
            for peer, planned_s in self._planned_s.items()
            if 0 < planned_s < math.inf and delivered[peer] > 0 and chunk_count > 0
        ]
        return max(1.0, statistics.median(factors)) if factors else 1.0
