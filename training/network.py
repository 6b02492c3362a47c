"""A node and the hash table of its run, as everything that trains together opens them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from averaging import STRANGERS_VALIDATOR
from p2p import (
    RELAYS_VALIDATOR,
    Dht,
    DhtConfig,
    Node,
    NodeConfig,
    Portal,
    open_dht,
    open_mdns,
    open_node,
    open_relay_directory,
)
from training.progress.schema import PROGRESS_VALIDATOR

RUN_VALIDATORS = (RELAYS_VALIDATOR, STRANGERS_VALIDATOR, PROGRESS_VALIDATOR)
"""What each node of a swarm that trains demands of the records that it holds and reads."""

_NEIGHBOURS_S = 4.0
"""A peer on this network answers the first or the second question of mDNS, or is not there."""
_RUN_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def enter_network(
    run: str,
    *,
    initial_peers: Iterable[str],
    listen: Iterable[str],
    announce: Iterable[str],
    identity_path: str | Path | None,
    client_mode: bool,
    node_config: NodeConfig | None,
    dht: DhtConfig,
) -> tuple[Portal, tuple[Node, Dht]]:
    """Open a portal, and in it a node in the swarm of a run; closing the portal closes all.

    Raises:
        ValueError: the run's name is none.
        P2PError: as training.join() tells.
    """
    if not _RUN_PATTERN.fullmatch(run):
        raise ValueError(
            f"the run's name must be 1 to 64 letters, digits, dots, dashes and underscores: {run!r}"
        )
    node_config = replace(
        node_config or NodeConfig(),
        listen=tuple(listen),
        announce=tuple(announce),
        identity_path=Path(identity_path) if identity_path is not None else None,
        client_mode=client_mode,
    )
    portal = Portal()
    try:
        return portal, portal.enter(_open_network(run, node_config, dht, tuple(initial_peers)))
    except BaseException:
        portal.close()
        raise


@asynccontextmanager
async def _open_network(
    run: str, node_config: NodeConfig, dht_config: DhtConfig, initial_peers: tuple[str, ...]
) -> AsyncIterator[tuple[Node, Dht]]:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(node_config))
        if node_config.mdns:
            mdns = await stack.enter_async_context(open_mdns(node, run=run))
            if not initial_peers:
                initial_peers = await mdns.enter(within_s=_NEIGHBOURS_S)
        dht_config = replace(dht_config, validators=(*dht_config.validators, *RUN_VALIDATORS))
        dht = await stack.enter_async_context(open_dht(node, dht_config, initial_peers))
        await stack.enter_async_context(open_relay_directory(node, dht))
        yield node, dht
