"""What a node opens so that others reach it, which settings turn it off, and what flows where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio

from p2p import Node, NodeConfig, PeerId, open_node
from p2p.address import TcpAddress, parse_tcp_address
from p2p.dial.dcutr import DCUTR_PROTOCOL
from p2p.dial.hole_puncher import HolePuncher
from p2p.host.host import Host
from p2p.host.transport import DialError
from p2p.nat.autonat import AUTONAT_PROTOCOL
from p2p.nat.whereabouts import Whereabouts
from p2p.reach import open_reach
from p2p.relay.client import open_relay_client
from p2p.testing import SimNetwork, run_sim

EVERYWHERE = ("/ip4/0.0.0.0/tcp/4001",)
PATIENCE_S = 20.0


@asynccontextmanager
async def reaching(**settings: Any) -> AsyncIterator[tuple[Node, Host, Whereabouts]]:
    """A node on loopback whose settings say that it is open to others."""
    async with open_node() as node:
        host = node._transport
        assert isinstance(host, Host)
        config = NodeConfig(**{"listen": EVERYWHERE} | settings)
        async with open_reach(node, host, config) as here:
            yield node, host, here


def opened(node: Node, host: Host) -> str:
    """What is there of dial-back, punching and the keeper of relays: a letter for each."""
    parts = {
        "d": AUTONAT_PROTOCOL in host._handlers,
        "p": DCUTR_PROTOCOL in host._handlers,
        "k": node.relay_keeper is not None,
    }
    return "".join(letter for letter, is_there in parts.items() if is_there)


async def test_a_node_on_loopback_opens_nothing() -> None:
    async with open_node() as node:
        assert isinstance(node._transport, Host)
        assert opened(node, node._transport) == ""
        assert node.whereabouts is not None
        assert node.whereabouts.on_network_changed == [node.on_network_changed]
        assert node._transport.on_identified == []


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ({}, "dpk"),
        ({"dial_back": False}, "pk"),
        ({"hole_punching": False}, "dk"),
        ({"relay_client": "never"}, "dp"),
        ({"relay": True}, "dp"),
        ({"relay": True, "relay_client": "always"}, "dpk"),
        ({"client_mode": True}, ""),
        ({"client_mode": True, "relay_client": "always"}, "k"),
        ({"listen": ("/ip4/127.0.0.1/tcp/0",), "relay_client": "always"}, "k"),
    ],
)
async def test_each_part_has_its_switch(settings: dict[str, Any], there: str) -> None:
    async with reaching(**settings) as (node, host, _):
        assert opened(node, host) == there
    assert opened(node, host).strip("k") == ""
    assert host.on_connected == []
    assert host.on_identified == []


async def test_a_new_network_is_told_to_all_parts() -> None:
    async with reaching() as (node, _, here):
        assert node.relay_keeper is not None
        told = [getattr(callback, "__self__", None) for callback in here.on_network_changed]
        assert node in told
        assert node.relay_keeper in told
        assert any(isinstance(part, HolePuncher) for part in told)


def circuits(node: Node) -> set[str]:
    """The relays that others find in the node's addresses."""
    found = [one.split("/p2p/")[1] for one in node.addresses if "/p2p-circuit" in one]
    return {relay.partition("/")[0] for relay in found}


async def until_circuits(node: Node, relays: set[str]) -> None:
    """Wait until exactly these relays are in the node's addresses."""
    with trio.fail_after(PATIENCE_S):
        while circuits(node) != relays:  # noqa: ASYNC110 - addresses tell nobody that they changed
            await trio.sleep(0.01)


def relay_config(network: int) -> NodeConfig:
    """A relay in a network of its own; all of 127/8 is loopback."""
    return NodeConfig(listen=(f"/ip4/127.0.{network}.1/tcp/0",), relay=True)


async def test_reservations_are_told_as_addresses_and_taken_back() -> None:
    async with open_node(relay_config(1)) as staying:
        named = NodeConfig(relay_client="always", relays=staying.addresses)
        async with open_node(named) as bob:
            assert bob.relay_keeper is not None
            async with open_node(relay_config(2)) as leaving:
                bob.relay_keeper.on_named(parse_tcp_address(leaving.addresses[0]))
                await until_circuits(bob, {staying.peer_id, leaving.peer_id})
                assert {one.peer_id for one in bob.net_report.relays} == circuits(bob)
                # The direct address comes first.
                assert "/p2p-circuit" not in bob.addresses[0]
            await until_circuits(bob, {staying.peer_id})


class Outside:
    """Whether the internet lets dials to each peer through."""

    def __init__(self) -> None:
        self.closed: set[PeerId] = set()

    async def probe(self, peer_id: PeerId, address: TcpAddress) -> None:
        await trio.sleep(0.05)
        if peer_id in self.closed:
            raise DialError("no answer (a firewall, or nobody there)")


@asynccontextmanager
async def simulated(
    network: SimNetwork, name: str, address: str, outside: Outside
) -> AsyncIterator[Node]:
    """A peer of the simulated internet that opens its reach."""
    config = NodeConfig(listen=EVERYWHERE, port_mapping=False, hole_punching=False)
    async with network.open_node(name, host=address) as node:
        # All of a host that is used when nobody punches, a simulated one has, too.
        host = cast(Host, node._transport)
        async with (
            open_relay_client(host, node.peer_id) as node.relay_client,
            open_reach(node, host, config, dial_back=outside.probe),
        ):
            yield node


def seen(node: Node) -> tuple[str, int]:
    """Whether others get through to the node, and how many relays it wants."""
    assert node.relay_keeper is not None
    return node.net_report.reachability, node.relay_keeper._choice.wanted


def test_relays_are_wanted_while_outsiders_do_not_get_through() -> None:
    async def main(network: SimNetwork) -> None:
        outside = Outside()
        async with (
            simulated(network, "alice", "5.6.1.1", outside) as alice,
            simulated(network, "bob", "5.6.2.1", outside) as bob,
            simulated(network, "carol", "5.6.3.1", outside) as carol,
        ):
            for other in (bob, carol):
                await alice.connect(other.peer_id, other.addresses)
            await trio.sleep(30)
            assert seen(alice) == ("public", 0)
            outside.closed.add(alice.peer_id)
            await trio.sleep(60)
            assert seen(alice) == ("private", 2)
            outside.closed.clear()
            await trio.sleep(60)
            assert seen(alice) == ("public", 0)
        assert alice.whereabouts is not None
        assert alice.whereabouts.on_reachability == []

    run_sim(1, main)


def test_who_knows_nobody_wants_relays_after_a_moment() -> None:
    async def main(network: SimNetwork) -> None:
        async with simulated(network, "alice", "5.6.1.1", Outside()) as alice:
            await trio.sleep(2.9)
            assert seen(alice) == ("unknown", 0)
            await trio.sleep(0.2)
            assert seen(alice) == ("unknown", 2)

    run_sim(1, main)
