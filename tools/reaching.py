"""How a command gets to one peer: by its address, or by its id through a swarm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2p import (
    MessageInvalid,
    Node,
    PeerId,
    UnreachableError,
    open_dht,
    open_node,
    parse_peer_id_untrusted,
)
from tools.access import private_config
from tools.failures import MISUSED, CommandError


@dataclass(frozen=True)
class Target:
    """Whom a command is about."""

    text: str
    """An address with a peer id, or a peer id alone."""
    initial_peers: tuple[str, ...] = ()
    identity_path: Path | None = None
    private_path: Path | None = None


@asynccontextmanager
async def open_reaching(target: Target) -> AsyncIterator[tuple[Node, PeerId]]:
    """A node of our own that is connected to the target.

    It listens, so that a hole can be punched to it, but asks nothing of the router.

    Raises:
        CommandError: the target is neither an address nor a peer id, or cannot be looked up.
        p2p.P2PError: it cannot be reached.
    """
    config = replace(
        private_config(target.private_path),
        listen=("/ip4/0.0.0.0/tcp/0",),
        identity_path=target.identity_path,
        port_mapping=False,
        relay_client="never",
    )
    if target.text.startswith("/"):
        async with open_node(config) as node:
            yield node, await node.connect_address(target.text)
        return
    peer_id = _peer_id(target)
    async with (
        open_node(replace(config, client_mode=True)) as node,
        open_dht(node, initial_peers=target.initial_peers) as dht,
    ):
        if not node.is_connected(peer_id):
            addresses = await dht.find_peer(peer_id)
            try:
                await node.connect(peer_id, addresses)
            except UnreachableError as exc:
                if exc.attempts:
                    raise
                raise CommandError(
                    f"Nobody in the swarm knows where {peer_id} is",
                    next_step="Look with `manyhands peers` who is there; a peer that cannot be "
                    "dialed is not listed, so give one of its addresses instead.",
                ) from exc
        yield node, peer_id


def _peer_id(target: Target) -> PeerId:
    try:
        peer_id = parse_peer_id_untrusted(target.text)
    except MessageInvalid as exc:
        raise CommandError(
            f"{target.text!r} is neither an address nor a peer id",
            next_step="Give what `manyhands node` prints: /ip4/…/tcp/…/p2p/12D3KooW…, or the part "
            "behind /p2p/ together with --initial-peers.",
            exit_code=MISUSED,
        ) from exc
    if not target.initial_peers:
        raise CommandError(
            f"Where {peer_id} is cannot be looked up without a swarm",
            next_step="Add --initial-peers with the address that `manyhands node` prints, or give "
            "the peer's own address.",
            exit_code=MISUSED,
        )
    return peer_id
