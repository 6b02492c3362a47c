"""Reach: opens all that lets others reach a node, and ties the parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from p2p.address import scope
from p2p.config import NodeConfig
from p2p.dial.hole_puncher import open_hole_puncher
from p2p.host.host import Host
from p2p.host.probe import probe
from p2p.nat.portmap import open_port_mapper
from p2p.nat.whereabouts import Whereabouts, is_open_to_others, open_whereabouts
from p2p.node import Node


@asynccontextmanager
async def open_reach(node: Node, host: Host, config: NodeConfig) -> AsyncIterator[Whereabouts]:
    """Find out how others reach the node, and open ways to it, until the block ends.

    A node that listens on loopback only, or nowhere, does none of it.
    """
    async with AsyncExitStack() as stack:
        dial_back = partial(probe, node.identity)
        here = await stack.enter_async_context(
            open_whereabouts(node, host, config, probe=dial_back)
        )
        node.whereabouts = here
        if is_open_to_others(config):
            port = _port_behind_router(host)
            if config.port_mapping and port is not None:
                mapper = await stack.enter_async_context(
                    open_port_mapper(port, on_change=here.on_mapped)
                )
                here.on_network_changed.append(mapper.on_network_changed)
                here.on_seen_host.append(mapper.check_observed)
            if config.hole_punching:
                await stack.enter_async_context(
                    open_hole_puncher(node, host, observed=here.punchable)
                )
        yield here


def _port_behind_router(host: Host) -> int | None:
    """The port that a router would have to pass on: mappings are of IPv4."""
    ports = [one.port for one in host.listening_on if one.kind == "ip4" and scope(one) == "private"]
    return ports[0] if ports else None
