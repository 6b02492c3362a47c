"""What a command learns of a peer by a short visit: path, latency, and what runs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import trio

from p2p import Node, P2PError, PeerId, UnreachableError, ask_about, ping

_AT_ONCE_MAX = 16
_PEER_S_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One peer, as it was seen from here; empty and None is what was not seen."""

    path: str = ""
    """direct, punched or relayed."""
    round_trip_s: float | None = None
    role: str = ""
    """node, relay or client; peers of other kinds do not say."""
    agent: str = ""
    """Its program and version, as it calls itself."""
    cause: str = ""
    """Why it was not reached; empty when it was."""

    @property
    def nearness(self) -> float:
        """The round trip to sort by: who was not reached comes last."""
        return float("inf") if self.round_trip_s is None else self.round_trip_s

    @property
    def latency(self) -> str:
        """The round trip for people."""
        return "" if self.round_trip_s is None else f"{self.round_trip_s * 1000:.1f} ms"


async def visit_all(node: Node, peers: Mapping[PeerId, tuple[str, ...]]) -> dict[PeerId, Visit]:
    """Visit each peer, some at a time, none for longer than ten seconds."""
    visits: dict[PeerId, Visit] = {}
    limiter = trio.CapacityLimiter(_AT_ONCE_MAX)

    async def go(peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        async with limiter:
            visits[peer_id] = await _visit(node, peer_id, addresses)

    async with trio.open_nursery() as nursery:
        for peer_id, addresses in peers.items():
            nursery.start_soon(go, peer_id, addresses)
    return visits


async def _visit(node: Node, peer_id: PeerId, addresses: tuple[str, ...]) -> Visit:
    seen = Visit(cause=f"no answer in {_PEER_S_MAX:g} s")
    with trio.move_on_after(_PEER_S_MAX):
        try:
            await node.connect(peer_id, addresses)
            answer = await ping(node, peer_id)
            seen = Visit(path=answer.path, round_trip_s=answer.round_trip_s)
            told = await ask_about(node, peer_id)
        except UnreachableError as exc:
            return Visit(cause=exc.attempts[0].cause if exc.attempts else str(exc))
        except P2PError as exc:
            if not seen.path:
                return Visit(cause=str(exc))
        else:
            role = "relay" if told.is_relay else "client" if told.is_client else "node"
            return replace(seen, role=role, agent=f"{told.agent} {told.version}".strip())
        # Reached, and of another kind: what every libp2p peer tells must do.
        identified = await node.ask_who(peer_id)
        if identified is not None:
            seen = replace(seen, agent=identified.agent)
    return seen
