"""Offer: who is to hold a record, who is next when one does not, and what came of it (core)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from p2p.dht.store import StoreCode
from p2p.peer_id import PeerId


@dataclass(frozen=True)
class PutReport:
    """What became of a put."""

    replicas: int
    """Nodes that confirmed that they hold the record now, ourselves included; 0 means that it is
    nowhere."""
    newer: int = 0
    """Nodes that hold a newer one, and kept it."""
    sequence: int = 0
    """The number it was signed with; 0 when unsigned."""
    refused: dict[PeerId, str] = field(default_factory=dict)
    """Who refused or failed, and why."""


class Offer:
    """One record on its way to the nearest nodes; for each that fails, to the next in line."""

    def __init__(self, candidates: Iterable[PeerId], *, replicas: int) -> None:
        self._waiting = deque(candidates)
        self._places = replicas
        self._replicas = 0
        self._newer = 0
        self._refused: dict[PeerId, str] = {}
        self.newer_sequence = 0
        """The highest sequence that a holder of a newer record named, unchecked."""

    def next_peers(self) -> list[PeerId]:
        """To whom to offer the record now; each must be followed by an answer or a failure."""
        chosen = []
        while self._places and self._waiting:
            self._places -= 1
            chosen.append(self._waiting.popleft())
        return chosen

    def on_answer(self, peer_id: PeerId, code: StoreCode, sequence: int, reason: str) -> None:
        """A node said what became of the record there."""
        if code is StoreCode.REFUSED:
            self.on_failure(peer_id, reason)
            return
        self._replicas += code is StoreCode.STORED
        self._newer += code is StoreCode.OLDER
        self.newer_sequence = max(self.newer_sequence, sequence)

    def on_failure(self, peer_id: PeerId, reason: str) -> None:
        """A node does not hold the record: its place is free for the next in line."""
        self._refused[peer_id] = reason
        self._places += 1

    def report(self, sequence: int) -> PutReport:
        """What came of it."""
        return PutReport(self._replicas, self._newer, sequence, dict(self._refused))
