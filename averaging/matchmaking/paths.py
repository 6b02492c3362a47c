"""Who reaches whom within a group: what members say of their paths, and what follows (core).

Bulk goes over paths without a relay. A member that anybody can dial is *open*; whoever is not tells
whom it is connected to without a relay. There is a path from a contributor to an aggregator when
the aggregator is open, or either of the two says that they are connected.

    a member that is              owns a span when
    a client                      never, unless it is alone
    open                          always
    neither                       every contributor has a path to it

When this leaves nobody to aggregate, and the vector fits through the leader's circuits, the leader
alone aggregates, and its relays carry that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from averaging.matchmaking.schema import PATH_DIGEST_SIZE_BYTES, PATHS_MAX, RELAYED_BYTES_MAX, Paths
from p2p import MessageInvalid, PeerId, relayed_bytes_needed

if TYPE_CHECKING:
    from averaging.matchmaking.group import Join


@dataclass(frozen=True)
class Way:
    """How we are connected to a peer."""

    relayed: bool = False
    bytes_each_way: int | None = None
    """What its relay carries; None for no limit."""


@dataclass(frozen=True)
class Ways:
    """How others reach us, and we them, at one moment."""

    open: bool = True
    """Whether to expect that anybody can dial us without a relay."""
    to: Mapping[PeerId, Way] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def digest_of(peer_id: PeerId) -> bytes:
    """A short name of a peer; whoever forges one gains no more than by lying outright."""
    return hashlib.sha256(peer_id.encode()).digest()[:PATH_DIGEST_SIZE_BYTES]


def paths_told(ways: Ways, first: Iterable[PeerId]) -> Paths:
    """What our JOIN says of our paths, before we know who joins us.

    Args:
        first: whom to name before all others, since not everybody may be named.
    """
    unrelayed = [peer for peer, way in ways.to.items() if not way.relayed]
    wanted = dict.fromkeys(first)
    named = [peer for peer in wanted if peer in unrelayed]
    named += [peer for peer in unrelayed if peer not in wanted]
    return Paths(ways.open, _joined(named[:PATHS_MAX]))


def paths_of_leader(ways: Ways, members: Sequence[PeerId], vector_bytes: int) -> Paths:
    """What a leader's JOIN says when it closes its group: all paths to those who joined it."""
    needed = relayed_bytes_needed(vector_bytes)
    near, relayed, limits = [], [], []
    for peer in members:
        way = ways.to.get(peer)
        if way is None:
            continue
        if not way.relayed:
            near.append(peer)
            continue
        limit = RELAYED_BYTES_MAX if way.bytes_each_way is None else way.bytes_each_way
        if limit >= needed:
            relayed.append(peer)
            limits.append(min(limit, RELAYED_BYTES_MAX))
    relayed, limits = relayed[:PATHS_MAX], limits[:PATHS_MAX]
    return Paths(ways.open, _joined(near[:PATHS_MAX]), _joined(relayed), min(limits, default=0))


def check_paths_untrusted(paths: Paths) -> None:
    """Check what a JOIN says of paths; raises MessageInvalid."""
    if len(paths.near) % PATH_DIGEST_SIZE_BYTES or len(paths.relayed) % PATH_DIGEST_SIZE_BYTES:
        raise MessageInvalid("a JOIN names peers by half")
    if bool(paths.relayed) != bool(paths.relayed_bytes):
        raise MessageInvalid("a JOIN names circuits that carry nothing, or none that carry much")


class PathTable:
    """Which members of a group have paths to which, as their JOINs say."""

    def __init__(self, members: Sequence[Join]) -> None:
        self._members = members
        self._digests = [digest_of(join.peer_id) for join in members]
        self._near = [_split(join.paths.near) for join in members]

    def linked(self, contributor: int, owner: int) -> bool:
        """Whether there is a path for bulk, by their numbers."""
        return (
            contributor == owner
            or self._is_open(owner)
            or self._digests[contributor] in self._near[owner]
            or self._digests[owner] in self._near[contributor]
        )

    def served_by(self, owner: int) -> tuple[int, ...]:
        """Who could take part if this member owned a span; auxiliary ones always can."""
        return tuple(
            number
            for number, join in enumerate(self._members)
            if join.role == "aux" or self.linked(number, owner)
        )

    def aggregates(self, owner: int) -> bool:
        """Whether this member can own a span."""
        if self._members[owner].role == "client":
            return False
        return self._is_open(owner) or len(self.served_by(owner)) == len(self._members)

    def served_by_circuits(self) -> tuple[int, ...]:
        """Who could take part if the leader owned all of the vector, its circuits counted."""
        circuits = _split(self._members[0].paths.relayed)
        served = self.served_by(0)
        return tuple(
            number
            for number, digest in enumerate(self._digests)
            if number in served or digest in circuits
        )

    def _is_open(self, number: int) -> bool:
        join = self._members[number]
        return join.paths.open and join.role != "client"


def _joined(peers: Iterable[PeerId]) -> bytes:
    return b"".join(map(digest_of, peers))


def _split(digests: bytes) -> frozenset[bytes]:
    size = PATH_DIGEST_SIZE_BYTES
    return frozenset(digests[start : start + size] for start in range(0, len(digests), size))
