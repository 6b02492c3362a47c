"""Connections of the real and the simulated transport behave alike."""

import pytest
import trio
import trio.testing

from p2p import Identity, Node, StreamBroken, UnreachableError
from tests.p2p.worlds import PROTOCOL, World, echo


async def test_dialing_connects_both_sides(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await alice.connect(bob.peer_id)
    await trio.testing.wait_all_tasks_blocked()
    assert alice.connected_peers == (bob.peer_id,)
    [info] = alice.connections
    assert info.outbound
    assert info.path == "direct"
    assert info.address == bob.addresses[0]
    with trio.fail_after(5):
        while not bob.connections:
            await trio.lowlevel.checkpoint()
    assert [(info.peer_id, info.outbound) for info in bob.connections] == [(alice.peer_id, False)]


async def test_streams_open_both_ways_on_one_connection(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    alice.serve(PROTOCOL, echo)
    bob.serve(PROTOCOL, echo)
    for opener, other in ((alice, bob), (bob, alice)):
        stream = await opener.open_stream(other.peer_id, PROTOCOL)
        assert (stream.peer_id, stream.protocol, stream.path) == (other.peer_id, PROTOCOL, "direct")
        await stream.send_all(b"hello")
        assert await stream.receive_exactly(5) == b"hello"
        await stream.aclose()
    assert len(alice.connections) == len(bob.connections) == 1


async def test_a_client_can_be_called_on_its_own_connection(world: World) -> None:
    async with world.open_node() as server, world.open_node(client_mode=True) as client:
        assert client.addresses == ()
        client.serve(PROTOCOL, echo)
        await client.connect_address(server.addresses[0])
        with trio.fail_after(5):
            while client.peer_id not in server.connected_peers:
                await trio.lowlevel.checkpoint()
        stream = await server.open_stream(client.peer_id, PROTOCOL)
        await stream.send_all(b"hello")
        assert await stream.receive_exactly(5) == b"hello"


async def test_nobody_there(world: World) -> None:
    async with world.open_node() as alice:
        async with world.open_node() as bob:
            addresses = bob.addresses
        with pytest.raises(UnreachableError) as caught:
            await alice.connect(bob.peer_id, addresses)
        [attempt] = caught.value.attempts
        assert attempt.address == addresses[0]
        assert "connection refused" in attempt.cause


async def test_somebody_else_is_there(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    wanted = Identity.generate().peer_id
    address = bob.addresses[0].rpartition("/")[0] + "/" + wanted
    with pytest.raises(UnreachableError):
        await alice.connect_address(address)
    assert alice.connections == ()


async def test_unknown_peer(pair: tuple[Node, Node]) -> None:
    alice, _ = pair
    with pytest.raises(UnreachableError, match="no address of it is known"):
        await alice.open_stream(Identity.generate().peer_id, PROTOCOL)


async def test_disconnecting_tells_both_sides(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await alice.connect(bob.peer_id)
    with trio.fail_after(5):
        while not bob.connections:
            await trio.lowlevel.checkpoint()
        await alice.disconnect(bob.peer_id)
        await alice.wait_disconnected(bob.peer_id)
        await bob.wait_disconnected(alice.peer_id)
    assert alice.connected_peers == bob.connected_peers == ()
    # They may connect again.
    await alice.connect(bob.peer_id)
    assert alice.connected_peers == (bob.peer_id,)


async def test_a_node_that_ends_breaks_its_streams_elsewhere(world: World) -> None:
    async with world.open_node() as alice:
        async with world.open_node() as bob:
            alice.add_addresses(bob.peer_id, bob.addresses)
            bob.serve(PROTOCOL, echo)
            stream = await alice.open_stream(bob.peer_id, PROTOCOL)
            await stream.send_all(b"hello")
            assert await stream.receive_exactly(5) == b"hello"
        with trio.fail_after(5):
            await stream.wait_broken()
            await alice.wait_disconnected(bob.peer_id)
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        with pytest.raises(StreamBroken):
            await stream.send_all(b"again")


async def test_a_peer_cannot_have_too_many_streams_at_once(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    bob.serve(PROTOCOL, echo)
    with trio.fail_after(20):
        streams = [await alice.open_stream(bob.peer_id, PROTOCOL) for _ in range(256)]
        for stream in streams:
            await stream.send_all(b"x")
            assert await stream.receive_exactly(1) == b"x"
        one_more = await alice.open_stream(bob.peer_id, PROTOCOL)
        with pytest.raises(StreamBroken):
            await one_more.receive_some()
        await streams[0].send_eof()
        assert await streams[0].receive_some() == b""
        await trio.testing.wait_all_tasks_blocked(0.01)
        stream = await alice.open_stream(bob.peer_id, PROTOCOL)
        await stream.send_all(b"x")
        assert await stream.receive_exactly(1) == b"x"


async def test_peers_may_dial_each_other_at_once(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    bob.serve(PROTOCOL, echo)
    bob.add_addresses(alice.peer_id, alice.addresses)
    async with trio.open_nursery() as nursery:
        # Both dial at once, which leaves two connections or one.
        nursery.start_soon(alice.connect, bob.peer_id)
        nursery.start_soon(bob.connect, alice.peer_id)
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    await stream.send_all(b"x")
    assert await stream.receive_exactly(1) == b"x"
    await alice.disconnect(bob.peer_id)
    with trio.fail_after(5):
        await bob.wait_disconnected(alice.peer_id)
    assert not alice.connections
    assert not bob.connections
