"""Bulk over relays: what relays still let our connections carry, so that no more is sent (core).

A relay tells what a circuit carries each way, and cuts it beyond that. Others count for themselves
what they send; part of it is left to frames, seals and control messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from p2p.host.transport import ConnectionInfo
from p2p.peer_id import PeerId

# What goes over a circuit beside the values: so much for each of them, and so much once.
_OVERHEAD_PART: Final = 16
_OVERHEAD_BYTES: Final = 65_536


def relayed_bytes_needed(bulk_bytes: int) -> int:
    """What a circuit must carry each way, for so much bulk to go through it."""
    return bulk_bytes + bulk_bytes // _OVERHEAD_PART + _OVERHEAD_BYTES


class RelayedBulk:
    """Counts the bulk that a node sends over each of its relayed connections.

    Args:
        connections: tells those that are open now.
    """

    def __init__(self, connections: Callable[[], tuple[ConnectionInfo, ...]]) -> None:
        self._connections = connections
        self._sent: dict[tuple[PeerId, float], int] = {}

    def room_bytes(self, info: ConnectionInfo) -> float:
        """How much bulk may still be sent over a connection."""
        return max(self.room_when_new_bytes(info) - self._sent.get(_key(info), 0), 0)

    def room_when_new_bytes(self, info: ConnectionInfo) -> float:
        """How much bulk it could carry when it was opened."""
        if info.path != "relayed" or info.limit is None or info.limit.bytes_each_way is None:
            return math.inf
        whole = info.limit.bytes_each_way - _OVERHEAD_BYTES
        return max(whole - whole // (_OVERHEAD_PART + 1), 0)

    def take(self, peer_id: PeerId, size_bytes: int) -> bool:
        """Whether so much more may go through the relay to a peer; it is counted if so."""
        relayed = [info for info in self._connections() if info.path == "relayed"]
        ours = [info for info in relayed if info.peer_id == peer_id]
        if not ours or self.room_bytes(ours[-1]) < size_bytes:
            return False
        key = _key(ours[-1])
        if key not in self._sent:
            # What was counted for connections that are closed does not matter any more.
            open_now = {_key(info) for info in relayed}
            self._sent = {key: sent for key, sent in self._sent.items() if key in open_now}
        self._sent[key] = self._sent.get(key, 0) + size_bytes
        return True


def _key(info: ConnectionInfo) -> tuple[PeerId, float]:
    return info.peer_id, info.opened_at_s
