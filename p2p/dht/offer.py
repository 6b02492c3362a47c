"""Offer: who is to hold a record, who is next when one does not, and what came of it (core)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from p2p.dht.contact import Contact
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
    """One record on its way to the nearest nodes; for each that fails, to the next in line.

    A node that is late gives its place to the next in line, too, but may still confirm. The offer
    is settled when as many as are wanted have confirmed, or nobody is left to wait for.
    """

    def __init__(self, candidates: Iterable[PeerId], *, replicas: int) -> None:
        self._waiting = deque(candidates)
        self._wanted = replicas
        self._pending: dict[PeerId, bool] = {}
        """Who was asked, and whether it is late."""
        self._heard: set[PeerId] = set()
        self._replicas = 0
        self._newer = 0
        self._refused: dict[PeerId, str] = {}
        self.newer_sequence = 0
        """The highest sequence that a holder of a newer record named, unchecked."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to wait for."""
        if self._replicas + self._newer >= self._wanted:
            return not any(not late for late in self._pending.values())
        return not self._pending and not self._waiting

    def next_peers(self) -> list[PeerId]:
        """To whom to offer the record now."""
        on_time = sum(not late for late in self._pending.values())
        places = self._wanted - self._replicas - self._newer - on_time
        chosen = [self._waiting.popleft() for _ in range(min(places, len(self._waiting)))]
        self._pending.update(dict.fromkeys(chosen, False))
        return chosen

    def on_answer(self, peer_id: PeerId, code: StoreCode, sequence: int, reason: str) -> None:
        """A node said what became of the record there."""
        if code is StoreCode.REFUSED:
            self._heard.add(peer_id)
            self.on_failure(peer_id, reason)
        elif self._pending.pop(peer_id, None) is not None:
            self._heard.add(peer_id)
            self._replicas += code is StoreCode.STORED
            self._newer += code is StoreCode.OLDER
            self.newer_sequence = max(self.newer_sequence, sequence)

    def on_late(self, peer_id: PeerId) -> None:
        """A node takes longer than others do: the next in line is asked, too."""
        if peer_id in self._pending:
            self._pending[peer_id] = True

    def on_failure(self, peer_id: PeerId, reason: str) -> None:
        """A node does not hold the record: its place is free for the next in line."""
        if self._pending.pop(peer_id, None) is not None:
            self._refused[peer_id] = reason

    def unheard(self, contacts: Iterable[Contact]) -> list[Contact]:
        """Who of these has not said what became of the record there, asked or not."""
        return [contact for contact in contacts if contact.peer_id not in self._heard]

    def report(self, sequence: int) -> PutReport:
        """What came of it."""
        slow = dict.fromkeys(self._pending, "no answer in time")
        return PutReport(self._replicas, self._newer, sequence, {**self._refused, **slow})
