"""Crashes, freezes, partitions and dropped connections of simulated nodes."""

import pytest
import trio

from p2p import Identity, StreamBroken, UnreachableError
from p2p.testing import SimNetwork
from tests.p2p.testing.two_nodes import ECHO, alice_and_bob, echo, ping
from tests.simulated import simulated


@simulated
async def test_a_crash_breaks_connections_at_once_and_refuses_new_ones(network: SimNetwork) -> None:
    network.default_latency_s = 0.5
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        crashed_at_s = trio.current_time()
        network.crash(bob.peer_id)
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        await stream.wait_broken()
        await alice.wait_disconnected(bob.peer_id)
        assert trio.current_time() == crashed_at_s
        with pytest.raises(UnreachableError, match="connection refused"):
            await alice.connect(bob.peer_id)
        # The node's own code runs on, but it is cut off.
        assert bob.connected_peers == ()
        with pytest.raises(UnreachableError, match="crashed"):
            await bob.connect(alice.peer_id)
        network.crash(bob.peer_id)


@simulated
async def test_a_crash_while_being_dialed(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob), trio.open_nursery() as nursery:

        async def dial() -> None:
            with pytest.raises(UnreachableError, match="connection refused"):
                await alice.connect(bob.peer_id)

        nursery.start_soon(dial)
        await trio.sleep(0.005)
        network.crash(bob.peer_id)


@simulated
async def test_a_crashed_peer_comes_back_with_its_identity_and_address(network: SimNetwork) -> None:
    identity = Identity.generate(network.rng)
    async with network.open_node("alice") as alice:
        async with network.open_node("bob", identity=identity) as bob:
            alice.add_addresses(bob.peer_id, bob.addresses)
            await alice.connect(bob.peer_id)
            before = bob.addresses
            network.crash(bob.peer_id)
        async with network.open_node("bob", identity=identity) as bob:
            assert bob.addresses == before
            bob.serve(ECHO, echo)
            await ping(await alice.open_stream(bob.peer_id, ECHO))


@simulated
async def test_bytes_to_a_frozen_node_wait_until_it_thaws(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        network.freeze(bob.peer_id)
        await stream.send_all(b"hello")
        with trio.move_on_after(5) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        assert alice.connected_peers == (bob.peer_id,)
        network.thaw(bob.peer_id)
        thawed_at_s = trio.current_time()
        assert await stream.receive_exactly(5) == b"hello"
        assert trio.current_time() == pytest.approx(thawed_at_s + 0.02)


@simulated
async def test_dials_to_a_frozen_node_hang(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        network.freeze(bob.peer_id)
        with pytest.raises(UnreachableError, match="no answer in 10 s"):
            await alice.connect(bob.peer_id)
        assert trio.current_time() == 10
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.connect, bob.peer_id)
            await trio.sleep(3)
            assert alice.connected_peers == ()
            network.thaw(bob.peer_id)
        assert alice.connected_peers == (bob.peer_id,)
        assert trio.current_time() == pytest.approx(13.02)
        # The dial that was given up has left nothing behind.
        assert len(bob.connections) == 1


@simulated
async def test_a_connection_that_is_cut_for_long_is_lost_at_both_ends(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        cut_at_s = trio.current_time()
        network.partition([alice.peer_id])
        await stream.send_all(b"hello")
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        assert trio.current_time() == cut_at_s + network.silence_s_max
        await bob.wait_disconnected(alice.peer_id)
        assert trio.current_time() == cut_at_s + network.silence_s_max
        network.heal()
        await ping(await alice.open_stream(bob.peer_id, ECHO))


@simulated
async def test_a_node_frozen_for_long_hears_of_its_lost_connections_when_it_thaws(
    network: SimNetwork,
) -> None:
    async with alice_and_bob(network) as (alice, bob):
        await alice.connect(bob.peer_id)
        network.freeze(bob.peer_id)
        await alice.wait_disconnected(bob.peer_id)
        await trio.sleep(100)
        assert bob.connected_peers == (alice.peer_id,)
        network.thaw(bob.peer_id)
        await trio.sleep(0.011)
        assert bob.connected_peers == ()


@simulated
async def test_short_cuts_do_not_add_up(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        for _ in range(5):
            network.partition([alice.peer_id], [bob.peer_id])
            await trio.sleep(15)
            network.heal()
            await ping(stream)


@simulated
async def test_a_partition_separates_its_groups_and_those_in_none(network: SimNetwork) -> None:
    async with (
        network.open_node("a") as a,
        network.open_node("b") as b,
        network.open_node("c") as c,
        network.open_node("d") as d,
        network.open_node("e") as e,
    ):
        nodes = (a, b, c, d, e)
        for node in nodes:
            node.serve(ECHO, echo)
            for other in nodes:
                node.add_addresses(other.peer_id, other.addresses)
        network.partition([a.peer_id, b.peer_id], [c.peer_id])
        for one, two, together in ((a, b, True), (d, e, True), (a, c, False), (c, e, False)):
            with trio.move_on_after(2) as scope:
                await ping(await one.open_stream(two.peer_id, ECHO))
            assert scope.cancelled_caught != together
        network.heal()
        for one, two in ((a, c), (c, e), (a, d)):
            await ping(await one.open_stream(two.peer_id, ECHO))


@simulated
async def test_bytes_and_ends_across_a_partition_arrive_in_order_after_it(
    network: SimNetwork,
) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        await stream.send_all(b"under way ")
        network.partition([bob.peer_id])
        await stream.send_all(b"waiting ")
        await trio.sleep(5)
        network.heal()
        await stream.send_all(b"after")
        await stream.send_eof()
        assert await stream.receive_exactly(23) == b"under way waiting after"
        assert await stream.receive_some() == b""


@simulated
async def test_a_crash_across_a_partition_is_heard_of_after_it(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        network.partition([bob.peer_id])
        network.crash(bob.peer_id)
        await trio.sleep(5)
        assert alice.connected_peers == (bob.peer_id,)
        network.heal()
        with trio.fail_after(1):
            await stream.wait_broken()


@simulated
async def test_a_dropped_connection_can_be_made_again(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await ping(stream)
        network.drop_connection(bob.peer_id, alice.peer_id)
        for node in (alice, bob):
            assert node.connected_peers == ()
        with pytest.raises(StreamBroken):
            await stream.send_all(b"x")
        await ping(await alice.open_stream(bob.peer_id, ECHO))


@simulated
async def test_what_came_before_a_loss_can_still_be_read(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await stream.send_all(b"hello")
        await trio.sleep(1)
        network.drop_connection(alice.peer_id, bob.peer_id)
        assert await stream.receive_exactly(5) == b"hello"
        with pytest.raises(StreamBroken):
            await stream.receive_some()
