"""Paths for later rounds: members of a group that need a relay to each other try to do without.

A node that is reached through a relay punches by itself; all that is needed here is to meet. It
goes on beside the round, which never waits for it: what comes of it counts in the next JOIN.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from averaging.matchmaking.group import Group
from averaging.matchmaking.paths import Way, Ways
from p2p import Node, P2PError, PeerId, short

logger = logging.getLogger(__name__)

# Each pair costs a circuit, of which a relay lets a peer have some dozens; and only in small groups
# is it likely that somebody gets a path to everyone.
_GROUP_MAX: Final = 16
_DIAL_TIMEOUT_S: Final = 15.0


def ways_of(node: Node) -> Ways:
    """How others reach this node now, and to whom it is connected, and how."""
    ways: dict[PeerId, Way] = {}
    for info in node.connections:
        if info.path != "relayed":
            ways[info.peer_id] = Way()
        elif info.peer_id not in ways:
            limit = info.limit.bytes_each_way if info.limit is not None else None
            ways[info.peer_id] = Way(relayed=True, bytes_each_way=limit)
    return Ways(node.is_open, ways)


def strangers_to(node: Node, group: Group) -> list[tuple[PeerId, tuple[str, ...]]]:
    """The members, and their addresses, to whom we are to make a first connection.

    Where neither is open, one dials the other: the one that can, or the smaller id.
    """
    if len(group.members) > _GROUP_MAX or node.is_open:
        return []
    return [
        (join.peer_id, join.addresses)
        for join in group.members
        if join.peer_id != node.peer_id
        and join.addresses
        and not join.paths.open
        and not node.is_connected(join.peer_id)
        and (node.peer_id < join.peer_id or not node.addresses)
    ]


async def get_acquainted(
    node: Node, peer_id: PeerId, addresses: tuple[str, ...], limiter: trio.CapacityLimiter
) -> None:
    """Connect to a peer, so that the hole puncher has somebody to punch to."""
    async with limiter:
        with trio.move_on_after(_DIAL_TIMEOUT_S):
            try:
                await node.connect(peer_id, addresses)
            except P2PError as exc:
                logger.debug("not_acquainted peer=%s cause=%s", short(peer_id), exc)
