"""Circuits: what relays still let our connections carry, so that no bulk goes beyond it (core).

A relay tells what a circuit carries each way, and cuts it beyond that. Others count for themselves
what they send; part of it is left to frames, seals and control messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from p2p import ConnectionInfo, PeerId

# What goes over a circuit beside the values: so much for each of them, and so much once.
_OVERHEAD_PART: Final = 16
_OVERHEAD_BYTES: Final = 65_536


def relayed_bytes_needed(bulk_bytes: int) -> int:
    """What a circuit must carry each way, for so much bulk to go through it."""
    return bulk_bytes + bulk_bytes // _OVERHEAD_PART + _OVERHEAD_BYTES


class Circuits:
    """Counts the bulk that we send over relayed connections."""

    def __init__(self) -> None:
        self._sent: dict[tuple[PeerId, float], int] = {}

    def on_connections(self, infos: Iterable[ConnectionInfo]) -> None:
        """Only these are open now: what was counted for others does not matter any more."""
        open_now = {_key(info) for info in infos}
        self._sent = {key: sent for key, sent in self._sent.items() if key in open_now}

    def room_bytes(self, info: ConnectionInfo) -> float:
        """How much bulk may still be sent over a connection."""
        return max(self.room_when_new_bytes(info) - self._sent.get(_key(info), 0), 0)

    def room_when_new_bytes(self, info: ConnectionInfo) -> float:
        """How much bulk it could carry when it was opened."""
        if info.path != "relayed" or info.limit is None or info.limit.bytes_each_way is None:
            return math.inf
        whole = info.limit.bytes_each_way - _OVERHEAD_BYTES
        return max(whole - whole // (_OVERHEAD_PART + 1), 0)

    def take(self, info: ConnectionInfo, size_bytes: int) -> bool:
        """Whether so much more may be sent; it is counted if so."""
        if self.room_bytes(info) < size_bytes:
            return False
        if info.path == "relayed":
            self._sent[_key(info)] = self._sent.get(_key(info), 0) + size_bytes
        return True


def _key(info: ConnectionInfo) -> tuple[PeerId, float]:
    return info.peer_id, info.opened_at_s
