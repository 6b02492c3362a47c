"""Crossing dials: two peers that dialed each other at once keep one connection (core).

Both sides see the same two connections, so both keep the one that the smaller peer id dialed.
Only dials within moments of each other, and on paths of one kind, cross: a relayed connection
neither ends a direct one nor takes streams from it. It is given up itself when one without a relay
stands beside it. A peer that comes back later is reached on its
newest connection, since the older one may be dead without anybody having noticed.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2p.host.transport import ConnectionInfo
from p2p.peer_id import PeerId

CROSSING_S = 3.0
"""Further apart, two dials are no accident; a handshake takes three round trips."""


def preferred(several: Sequence[ConnectionInfo], me: PeerId) -> int:
    """The place of the connection that takes new streams.

    Args:
        several: the usable connections to one peer, at least one, the oldest first.
    """
    unrelayed = [place for place, info in enumerate(several) if info.path != "relayed"]
    places = unrelayed or list(range(len(several)))
    newest = places[-1]
    for older in reversed(places[:-1]):
        if loser_of(several[older], several[newest], me) is several[newest]:
            return older
    return newest


def loser_of(one: ConnectionInfo, other: ConnectionInfo, me: PeerId) -> ConnectionInfo | None:
    """The one of two connections to a peer that is given up, if their dials crossed."""
    if one.outbound == other.outbound or (one.path == "relayed") != (other.path == "relayed"):
        return None
    if abs(one.opened_at_s - other.opened_at_s) > CROSSING_S:
        return None
    keeps_outbound = me < one.peer_id
    return one if one.outbound != keeps_outbound else other


def replaced_of(one: ConnectionInfo, other: ConnectionInfo) -> ConnectionInfo | None:
    """The relayed one of two connections to a peer, if the other does without a relay."""
    if (one.path == "relayed") == (other.path == "relayed"):
        return None
    return one if one.path == "relayed" else other
