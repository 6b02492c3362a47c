"""Reach: opens all that lets others reach a node, and ties the parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from p2p.address import scope
from p2p.config import NodeConfig
from p2p.dial.hole_puncher import open_hole_puncher
from p2p.host.host import Host
from p2p.host.probe import probe
from p2p.nat.autonat import Probe
from p2p.nat.portmap import open_port_mapper
from p2p.nat.report import Reachability
from p2p.nat.whereabouts import Whereabouts, is_open_to_others, open_whereabouts
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.relay.keeper import RelayKeeper, open_relay_keeper

RELAYS_WANTED = 2
"""So that one may go without anybody noticing."""
_PATIENCE_S = 3.0


@asynccontextmanager
async def open_reach(
    node: Node, host: Host, config: NodeConfig, *, dial_back: Probe | None = None
) -> AsyncIterator[Whereabouts]:
    """Find out how others reach the node, and open ways to it, until the block ends.

    A node that listens on loopback only, or nowhere, does none of it, unless it is told to hold
    reservations at relays always.

    Args:
        dial_back: dials peers that ask for it; our own probe from a fresh port unless given.

    Raises:
        AddressInvalid: the address of a relay in the config is of no use.
    """
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            open_whereabouts(node, host, config, probe=dial_back or partial(probe, node.identity))
        )
        node.whereabouts = here
        if is_open_to_others(config):
            port = _port_behind_router(host)
            if config.port_mapping and port is not None:
                mapper = await stack.enter_async_context(
                    open_port_mapper(port, on_change=here.on_mapped)
                )
                here.port_mapper = mapper
                here.on_network_changed.append(mapper.on_network_changed)
                here.on_seen_host.append(mapper.check_observed)
            if config.hole_punching:
                node.hole_puncher = await stack.enter_async_context(
                    open_hole_puncher(node, host, observed=here.punchable)
                )
                here.on_network_changed.append(node.hole_puncher.on_network_changed)
        if node.relay_client is not None and _wants_relays(config):
            keeper = await stack.enter_async_context(
                open_relay_keeper(
                    node,
                    host,
                    node.relay_client,
                    on_change=here.on_reserved,
                    relays=config.relays,
                    wanted=RELAYS_WANTED if config.relay_client == "always" else 0,
                )
            )
            node.relay_keeper = keeper
            here.on_network_changed.append(keeper.on_network_changed)
            if config.relay_client == "auto":
                nursery = await stack.enter_async_context(open_service_nursery())
                nursery.start_soon(_want_relays_while_private, here, keeper)
        yield here


def _wants_relays(config: NodeConfig) -> bool:
    """Whether the node may ever hold reservations; a relay itself has no need of any."""
    if config.relay_client == "auto":
        return is_open_to_others(config) and not config.relay
    return config.relay_client == "always"


async def _want_relays_while_private(here: Whereabouts, keeper: RelayKeeper) -> None:
    """Hold reservations while outsiders do not get through, or nobody can tell."""

    def follow(reachability: Reachability) -> None:
        keeper.want(0 if reachability == "public" else RELAYS_WANTED)

    # Public nodes find that out within a second, and need no relay until then.
    await trio.sleep(_PATIENCE_S)
    follow(here.reachability)
    here.on_reachability.append(follow)
    try:
        await trio.sleep_forever()
    finally:
        here.on_reachability.remove(follow)


def _port_behind_router(host: Host) -> int | None:
    """The port that a router would have to pass on: mappings are of IPv4."""
    ports = [one.port for one in host.listening_on if one.kind == "ip4" and scope(one) == "private"]
    return ports[0] if ports else None
