"""Whom a peer would rather join than lead: candidates by rank, and why some are put off."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from averaging.matchmaking.keys import rank
from p2p import PeerId

# A peer put off for a while is asked again after half a second, then one, then each two: often
# enough to learn within a moment that its group has ended, and cheap.
_RETRY_S = 0.5
_RETRY_DOUBLINGS_MAX = 2


@dataclass(frozen=True)
class PutOff:
    """Why a candidate is not asked, and until when."""

    reason: str
    until_s: float
    final: bool
    """Whether no sign of life changes it in this search."""


class Ranking:
    """The candidates of one search in one round.

    A peer only ever joins one that its own ranking puts before itself. Peers ranked last (silent
    or lost lately) come after all others, ourselves included; told that others rank us last, we
    do so too. Whoever follows a leader holds no followers, so nobody waits in a circle.
    """

    def __init__(
        self, own: PeerId, parent: bytes, *, can_lead: bool, ranked_last: Collection[PeerId]
    ) -> None:
        self._own = own
        self._parent = parent
        self._can_lead = can_lead
        self._ranked_last = dict.fromkeys(ranked_last)
        self._keys: dict[PeerId, tuple[bool, bytes]] = {}
        self._candidates: dict[PeerId, None] = {}
        self._put_off: dict[PeerId, PutOff] = {}
        self._retries: dict[PeerId, int] = {}

    def add(self, peers: Iterable[PeerId]) -> None:
        """Peers that may lead."""
        for peer in peers:
            if peer != self._own:
                self._candidates[peer] = None

    def rank_last(self, peer: PeerId) -> None:
        """Rank a peer, or ourselves, after all others."""
        self._ranked_last[peer] = None
        self._keys.pop(peer, None)

    def is_ranked_last(self, peer: PeerId) -> bool:
        """Whether we rank this peer last."""
        return peer in self._ranked_last

    def better(self, peer: PeerId, than: PeerId) -> bool:
        """Whether one peer comes before another."""
        return self._key(peer) < self._key(than)

    def put_off(self, peer: PeerId, reason: str, *, final: bool = False) -> None:
        """Do not ask this peer again, unless it shows itself (never, if final)."""
        self._put_off[peer] = PutOff(reason, math.inf, final)

    def put_off_a_while(self, peer: PeerId, reason: str, now_s: float) -> None:
        """Ask this peer again after a pause that doubles each time."""
        retries = self._retries.get(peer, 0)
        self._retries[peer] = retries + 1
        pause_s = _RETRY_S * 2 ** min(retries, _RETRY_DOUBLINGS_MAX)
        self._put_off[peer] = PutOff(reason, now_s + pause_s, False)

    def on_shown(self, peer: PeerId) -> None:
        """A peer showed itself alive and looking: it may be asked again."""
        entry = self._put_off.get(peer)
        if entry is not None and not entry.final:
            del self._put_off[peer]

    def best(
        self, now_s: float, *, besides: Collection[PeerId], fresh: bool = False
    ) -> PeerId | None:
        """The first candidate that may be asked and comes before us; None when we had better lead.

        A peer that cannot lead takes any candidate.

        Args:
            fresh: leave out those that were put off before and have not shown themselves since.
        """
        best: PeerId | None = None
        for peer in self._candidates:
            entry = self._put_off.get(peer)
            if peer in besides or (entry is not None and (fresh or entry.until_s > now_s)):
                continue
            if self._can_lead and not self.better(peer, self._own):
                continue
            if best is None or self.better(peer, best):
                best = peer
        return best

    def next_retry_s(self, now_s: float) -> float:
        """When the next candidate may be asked again."""
        times = (entry.until_s for entry in self._put_off.values() if entry.until_s > now_s)
        return min(times, default=math.inf)

    @property
    def reasons(self) -> dict[PeerId, str]:
        """Why each candidate was put off."""
        return {peer: entry.reason for peer, entry in sorted(self._put_off.items())}

    def _key(self, peer: PeerId) -> tuple[bool, bytes]:
        key = self._keys.get(peer)
        if key is None:
            key = (peer in self._ranked_last, rank(self._parent, peer))
            self._keys[peer] = key
        return key
