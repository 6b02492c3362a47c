"""What of a round may go through relays, which state how much they carry."""

from __future__ import annotations

from typing import Any

from averaging.allreduce.session import Session
from p2p import PeerId, RpcCall


def obstacle_to(session: Session, aggregator: PeerId) -> str:
    """Why our values cannot go to an aggregator over the path that there is; or empty."""
    info = session.node.path_to(aggregator)
    if info is None or info.path != "relayed" or not session.votes:
        return ""
    needed = _bulk_bytes(session, aggregator)
    room = session.node.relayed_bulk.room_bytes(info)
    if needed <= room:
        return ""
    return f"only reached through a relay, which carries {room:.0f} bytes, not {needed}"


def needs_new_circuit_to(session: Session, aggregator: PeerId) -> bool:
    """Whether a circuit is nearly used up, and a new one would carry what goes over it."""
    info = session.node.path_to(aggregator)
    if info is None or not obstacle_to(session, aggregator):
        return False
    room = session.node.relayed_bulk.room_when_new_bytes(info)
    return _bulk_bytes(session, aggregator) <= room


def may_send(session: Session, call: RpcCall[Any, Any], size_bytes: int) -> bool:
    """Whether so much bulk may go over the call's path; it is counted if so."""
    return call.path != "relayed" or session.node.relayed_bulk.take(call.peer_id, size_bytes)


def _bulk_bytes(session: Session, other: PeerId) -> int:
    """What we send to an aggregator at most: parts of its span, and averages of ours."""
    wires = {session.me: session.down, other: session.up}
    return sum(
        wires[owner].size_limit_bytes(chunk.start, chunk.stop)
        for piece in session.pieces
        if (owner := session.aggregators[piece.owner]) in wires
        for chunk in piece.chunks
    )
