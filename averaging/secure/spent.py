"""Which vectors were offered already, and so must not be offered again (core).

Whoever knows two sums that differ in one member knows that member's vector. So a vector whose first
masked element has left us is spent, whatever came of it: others may have signed and revealed with
it in the sum. One thing frees it: the promises of a threshold of its group never to sign there,
which leave too few for a certificate. They stand in the signed JOINs of the next group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from blake3 import blake3

from averaging.matchmaking.group import Group
from averaging.secure.signing import threshold_of
from p2p import PeerId

Array = np.ndarray[Any, Any]

# A day of steps of a second each takes some megabytes.
_KEPT_MAX: Final = 100_000


@dataclass(frozen=True)
class _Offer:
    """Where a vector was last offered."""

    group_id: bytes
    members: tuple[PeerId, ...]


class SpentUpdates:
    """Digests of vectors that were masked and sent."""

    def __init__(self) -> None:
        self._offers: dict[bytes, _Offer | None] = {}

    def add(self, digest: bytes, group: Group, *, promised: bool) -> None:
        """The vector of this digest was offered; the oldest of very many is forgotten.

        Args:
            promised: whether we promised never to sign in the group; else it is spent for good.
        """
        self._offers.pop(digest, None)
        self._offers[digest] = _Offer(group.group_id, group.peer_ids) if promised else None
        if len(self._offers) > _KEPT_MAX:
            del self._offers[next(iter(self._offers))]

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._offers

    def freed_by(self, digest: bytes, group: Group) -> bool:
        """Whether the vector may be offered to this group: it is new, or freed by its members."""
        if digest not in self._offers:
            return True
        offer = self._offers[digest]
        if offer is None:
            return False
        promises = [
            join.peer_id
            for join in group.members
            if join.abandoned and join.previous == offer.group_id and join.peer_id in offer.members
        ]
        # With all of these and up to 2t - n - 1 liars among them, fewer than t can have signed.
        return len(promises) >= threshold_of(len(offer.members))


def digest_of(vector: Array) -> bytes:
    """Names a vector: equal digests, equal bits."""
    return blake3(np.ascontiguousarray(vector).view(np.uint8).data).digest()
