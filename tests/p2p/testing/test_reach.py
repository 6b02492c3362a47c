"""Peers behind routers in the simulated network: relayed, punched and direct paths."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from p2p import Node, Stream, StreamBroken, UnreachableError
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated


async def open_three(stack: AsyncExitStack, network: SimNetwork) -> tuple[Node, Node, Node]:
    """A public node that relays, and two private ones that know each other's addresses."""
    relay = await stack.enter_async_context(network.open_node("relay"))
    network.set_relay(relay.peer_id, bytes_each_way=100_000)
    alice = await stack.enter_async_context(network.open_node("alice", private=True))
    bob = await stack.enter_async_context(network.open_node("bob", private=True))
    for node, other in ((alice, bob), (bob, alice), (relay, alice)):
        node.add_addresses(other.peer_id, other.addresses)
    return relay, alice, bob


@simulated
async def test_private_peers_meet_through_a_relay(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        relay, alice, bob = await open_three(stack, network)
        assert (relay.is_open, alice.is_open) == (True, False)
        assert alice.net_report.reachability == "private"
        received = bytearray()

        async def take(stream: Stream) -> None:
            while data := await stream.receive_some():
                received.extend(data)

        bob.serve("/take/1", take)
        network.set_link(alice.peer_id, relay.peer_id, latency_s=0.1)
        network.set_link(bob.peer_id, relay.peer_id, latency_s=0.2)
        stream = await alice.open_stream(bob.peer_id, "/take/1")
        info = alice.path_to(bob.peer_id)
        assert info is not None
        assert (stream.path, info.path) == ("relayed", "relayed")
        assert info.limit is not None
        assert info.limit.bytes_each_way == 100_000
        sent_at_s = trio.current_time()
        await stream.send_all(b"hello")
        while not received:
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.01)
        assert trio.current_time() - sent_at_s == pytest.approx(0.3, abs=0.02)
        with pytest.raises(StreamBroken):
            while True:
                await stream.send_all(bytes(10_000))
        await trio.sleep(1)
        assert len(received) <= 100_000
        assert network.circuits_cut
        assert not alice.is_connected(bob.peer_id)


@simulated
async def test_a_relay_that_goes_takes_its_circuits_with_it(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        relay, alice, bob = await open_three(stack, network)
        await alice.connect(bob.peer_id)
        network.crash(relay.peer_id)
        assert not alice.is_connected(bob.peer_id)
        with pytest.raises(UnreachableError, match="relay cannot be reached"):
            await alice.connect(bob.peer_id)


@simulated
async def test_pairs_that_can_punch_get_rid_of_the_relay(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        relay, alice, bob = await open_three(stack, network)
        network.let_punch(alice.peer_id, bob.peer_id)
        await alice.connect(bob.peer_id)
        await trio.sleep(1)
        for node, other in ((alice, bob), (bob, alice)):
            info = node.path_to(other.peer_id)
            assert info is not None
            assert info.path == "punched"
        # Whoever holds a place at a relay is connected to it, so that one needs no dial.
        assert relay.is_connected(alice.peer_id)
        assert relay.net_report.connections_relayed == 0


@simulated
async def test_a_router_may_come_and_go(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        _, alice, bob = await open_three(stack, network)
        told: list[str] = []
        assert alice.whereabouts is not None
        alice.whereabouts.on_reachability.append(told.append)
        network.set_private(alice.peer_id, False)
        assert alice.is_open
        assert alice.addresses == (f"/ip4/10.0.1.1/tcp/4001/p2p/{alice.peer_id}",)
        bob.add_addresses(alice.peer_id, alice.addresses)
        await bob.connect(alice.peer_id)
        info = alice.path_to(bob.peer_id)
        assert info is not None
        assert info.path == "direct"
        network.set_private(alice.peer_id)
        assert not alice.is_open
        assert told == ["public", "private"]
