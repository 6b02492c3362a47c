"""Placement: finds k nodes that hold a record; for each that does not, the next in line."""

from __future__ import annotations

from collections.abc import Sequence

from p2p.dht.routing import Contact
from p2p.dht.store import StoreCode
from p2p.peer_id import PeerId


class Placement:
    """One record's way to its replicas; None among the candidates stands for ourselves."""

    def __init__(
        self, own_id: PeerId, candidates: Sequence[Contact | None], replicas_wanted: int
    ) -> None:
        self._own_id = own_id
        self._waiting = list(reversed(candidates))
        self._places_left = replicas_wanted
        self.replicas = 0
        """Nodes that hold the record now."""
        self.newer = 0
        """Nodes that hold a newer one, and kept it."""
        self.newer_sequence = 0
        self.refused: dict[PeerId, str] = {}
        """Who refused or failed, and why."""

    def next_offers(self) -> list[Contact | None]:
        """Whom to offer the record to now; each is to be followed by an outcome."""
        count = min(self._places_left, len(self._waiting))
        self._places_left -= count
        return [self._waiting.pop() for _ in range(count)]

    def on_outcome(
        self, contact: Contact | None, code: StoreCode, sequence: int = 0, reason: str = ""
    ) -> None:
        """A node said what became of the record."""
        if code is StoreCode.REFUSED:
            self.refused[self._own_id if contact is None else contact.peer_id] = reason
            self._places_left += 1
            return
        self.replicas += code is StoreCode.STORED
        self.newer += code is StoreCode.OLDER
        self.newer_sequence = max(self.newer_sequence, sequence)
