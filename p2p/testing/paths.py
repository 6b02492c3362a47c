"""Paths: how each pair of simulated peers is linked now, and whether anything gets through."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.peer_id import PeerId


@dataclass(frozen=True, kw_only=True)
class Link:
    """The way from one peer to another."""

    latency_s: float = 0.01
    """From one end to the other; a round trip takes twice as long."""
    bytes_per_s: float = math.inf
    """Each way, shared by all streams of a connection."""

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and self.bytes_per_s > 0):
            raise ValueError("a link has a latency of 0 s or more and a rate above 0")


class Paths:
    """The links of all pairs, the cuts between them, and the chance in their delays."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.default = Link()
        self.jitter = 0.0
        """Each delay is stretched by a random part of itself, up to this one."""
        self._links: dict[tuple[PeerId, PeerId], Link] = {}
        self._frozen: dict[PeerId, None] = {}
        self._group_of: dict[PeerId, int] = {}

    def set_link(self, a: PeerId, b: PeerId, link: Link) -> None:
        """Link two peers so, both ways."""
        self._links[a, b] = self._links[b, a] = link

    def link(self, source: PeerId, destination: PeerId, relay: PeerId | None = None) -> Link:
        """The link from one peer to another, or both links of a way through a relay."""
        if relay is None:
            return self._links.get((source, destination), self.default)
        up, down = self.link(source, relay), self.link(relay, destination)
        return Link(
            latency_s=up.latency_s + down.latency_s,
            bytes_per_s=min(up.bytes_per_s, down.bytes_per_s),
        )

    def delay_s(self, link: Link) -> float:
        """How long the next bytes take on a link, besides their own size."""
        if not self.jitter:
            return link.latency_s
        return link.latency_s * (1 + self.jitter * self._rng.random())

    def freeze(self, peer_id: PeerId) -> None:
        """Let nothing through to or from a peer."""
        self._frozen[peer_id] = None

    def thaw(self, peer_id: PeerId) -> None:
        """Undo freeze()."""
        self._frozen.pop(peer_id, None)

    def is_frozen(self, peer_id: PeerId) -> bool:
        """Whether the peer is frozen."""
        return peer_id in self._frozen

    def partition(self, groups: Iterable[Iterable[PeerId]]) -> None:
        """Let nothing through between groups; all peers not named form one more."""
        self._group_of = {
            peer_id: index for index, group in enumerate(groups, start=1) for peer_id in group
        }

    def is_cut(self, a: PeerId, b: PeerId, relay: PeerId | None = None) -> bool:
        """Whether what two peers send each other, perhaps through a relay, has to wait."""
        if relay is not None:
            return self.is_cut(a, relay) or self.is_cut(relay, b)
        if self._frozen and (a in self._frozen or b in self._frozen):
            return True
        return bool(self._group_of) and self._group_of.get(a, 0) != self._group_of.get(b, 0)
