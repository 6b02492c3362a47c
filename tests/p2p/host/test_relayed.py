"""Dialing through a relay: real nodes on loopback, every cause of failure, and what wins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2p import Identity, Node, NodeConfig, RelayLimits, Stream, UnreachableError, open_node
from p2p.address import parse_address, parse_tcp_address
from p2p.host.host import Host
from p2p.protobuf import framed
from p2p.relay.schema import (
    HOP_PROTOCOL,
    CircuitLimit,
    Hop,
    HopType,
    Status,
    encode_hop,
    read_message_untrusted,
)

ECHO = "/test/echo/1"
NOBODY = "/ip4/127.0.0.1/tcp/9"
CLIENT = NodeConfig(client_mode=True)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


@dataclass
class Scene:
    """Bob cannot be dialed and has reserved at the relay; alice wants to reach him."""

    relay: Node
    alice: Node
    bob: Node

    @property
    def circuit(self) -> str:
        return f"{self.relay.addresses[0]}/p2p-circuit/p2p/{self.bob.peer_id}"


@asynccontextmanager
async def open_scene(bob: NodeConfig = CLIENT, **limits: int) -> AsyncIterator[Scene]:
    relay_config = NodeConfig(relay=True, relay_limits=RelayLimits(**limits))
    async with open_node(relay_config) as relay, open_node() as alice, open_node(bob) as bob_node:
        bob_node.serve(ECHO, echo)
        await bob_node.connect_address(relay.addresses[0])
        assert bob_node.relay_client is not None
        await bob_node.relay_client.reserve(relay.peer_id)
        yield Scene(relay, alice, bob_node)


async def causes_of(alice: Node, address: str) -> str:
    """Why alice does not get there."""
    with pytest.raises(UnreachableError) as caught:
        await alice.connect_address(address)
    [attempt] = caught.value.attempts
    assert attempt.address == address
    return attempt.cause


async def test_a_peer_is_reached_through_its_relay() -> None:
    async with open_scene(circuit_duration_s=77, circuit_bytes_each_way=99_999) as scene:
        assert await scene.alice.connect_address(scene.circuit) == scene.bob.peer_id
        stream = await scene.alice.open_stream(scene.bob.peer_id, ECHO)
        assert stream.path == "relayed"
        await stream.send_all(b"through and through")
        assert await stream.receive_exactly(19) == b"through and through"
        limit = CircuitLimit(duration_s=77, bytes_each_way=99_999)
        for node, other in ((scene.alice, scene.bob), (scene.bob, scene.alice)):
            [info] = [one for one in node.connections if one.peer_id == other.peer_id]
            assert (info.path, info.limit) == ("relayed", limit)
            assert f"/p2p/{scene.relay.peer_id}/p2p-circuit/" in info.address
            assert node.net_report.connections_relayed == 1
        # The circuit is remembered like any address.
        assert scene.circuit in scene.alice.addresses_of(scene.bob.peer_id)


async def test_circuits_that_need_one_relay_share_its_connection() -> None:
    async with open_scene() as scene, open_node(CLIENT) as carol:
        await carol.connect_address(scene.relay.addresses[0])
        assert carol.relay_client is not None
        await carol.relay_client.reserve(scene.relay.peer_id)
        other = f"{scene.relay.addresses[0]}/p2p-circuit/p2p/{carol.peer_id}"
        async with trio.open_nursery() as nursery:
            for address in (scene.circuit, other):
                nursery.start_soon(scene.alice.connect_address, address)
        peers = [info.peer_id for info in scene.alice.connections]
        assert sorted(peers) == sorted([scene.relay.peer_id, scene.bob.peer_id, carol.peer_id])


async def test_without_a_reservation_the_cause_says_so() -> None:
    async with open_scene() as scene:
        stranger = Identity.generate().peer_id
        address = f"{scene.relay.addresses[0]}/p2p-circuit/p2p/{stranger}"
        assert await causes_of(scene.alice, address) == "the relay has no reservation for it"


async def test_a_node_that_serves_as_no_relay_is_named() -> None:
    async with open_scene() as scene, open_node() as plain:
        address = f"{plain.addresses[0]}/p2p-circuit/p2p/{scene.bob.peer_id}"
        assert await causes_of(scene.alice, address) == "it serves as no relay"


async def test_a_relay_that_is_gone_is_named() -> None:
    async with open_scene() as scene:
        gone = Identity.generate().peer_id
        address = f"{NOBODY}/p2p/{gone}/p2p-circuit/p2p/{scene.bob.peer_id}"
        cause = await causes_of(scene.alice, address)
        assert cause.startswith("the relay cannot be reached: connection refused")


async def test_a_relay_without_room_is_named() -> None:
    async with open_scene(circuits_max=1) as scene, open_node() as carol:
        await scene.alice.connect_address(scene.circuit)
        assert await causes_of(carol, scene.circuit) == "the relay has no room for another circuit"


async def test_circuits_through_or_to_oneself_are_refused() -> None:
    async with open_scene() as scene, open_node() as carol:
        through_me = f"{scene.relay.addresses[0]}/p2p-circuit/p2p/{carol.peer_id}"
        assert await causes_of(scene.relay, through_me) == "that relay is ourselves"
        with pytest.raises(UnreachableError, match="that is ourselves"):
            await scene.bob.connect_address(scene.circuit)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"\xff", "makes no sense"),
        (encode_hop(Hop(type=HopType.CONNECT)), "makes no sense"),
        (encode_hop(Hop(type=HopType.STATUS, status=999)), "refuses with status 999"),
        (
            encode_hop(Hop(type=HopType.STATUS, status=Status.PERMISSION_DENIED)),
            "does not let us through",
        ),
        (None, "gave up on us"),
    ],
)
async def test_a_relay_that_misbehaves_is_named(answer: bytes | None, cause: str) -> None:
    async def serve(stream: Stream) -> None:
        await read_message_untrusted(stream)
        if answer is None:
            stream.reset()
        else:
            await stream.send_all(framed(answer))

    async with open_node() as mallory, open_node() as alice:
        mallory.serve(HOP_PROTOCOL, serve)
        target = Identity.generate().peer_id
        address = f"{mallory.addresses[0]}/p2p-circuit/p2p/{target}"
        assert cause in await causes_of(alice, address)
        assert alice.connected_peers == (mallory.peer_id,)


async def test_a_relay_cannot_answer_in_the_peers_place() -> None:
    """The relay accepts and runs the handshake itself: it cannot prove to be bob."""
    pretender: list[Host] = []

    async def pretend(stream: Stream) -> None:
        await read_message_untrusted(stream)
        await stream.send_all(framed(encode_hop(Hop(type=HopType.STATUS, status=Status.OK))))
        await pretender[0].accept_relayed(stream, alice.peer_id, CircuitLimit())

    async with open_node() as mallory, open_node() as alice:
        host = mallory._transport
        assert isinstance(host, Host)
        pretender.append(host)
        mallory.serve(HOP_PROTOCOL, pretend)
        bob = Identity.generate().peer_id
        cause = await causes_of(alice, f"{mallory.addresses[0]}/p2p-circuit/p2p/{bob}")
        assert "impostor" in cause
        assert alice.net_report.connections_relayed == 0


async def test_a_direct_address_that_answers_spares_the_relay() -> None:
    async with open_scene(NodeConfig()) as scene:
        await scene.alice.connect(scene.bob.peer_id, (scene.circuit, *scene.bob.addresses))
        [info] = scene.alice.connections
        assert info.path == "direct"


async def test_a_circuit_starts_at_once_when_direct_addresses_fail() -> None:
    async with open_scene() as scene:
        direct = f"{NOBODY}/p2p/{scene.bob.peer_id}"
        await scene.alice.connect(scene.bob.peer_id, (direct, scene.circuit))
        [info] = [one for one in scene.alice.connections if one.peer_id == scene.bob.peer_id]
        assert info.path == "relayed"


async def test_a_direct_connection_that_comes_later_takes_new_streams() -> None:
    async with open_scene(NodeConfig()) as scene:
        await scene.alice.connect_address(scene.circuit)
        old = await scene.alice.open_stream(scene.bob.peer_id, ECHO)
        await scene.bob.connect(scene.relay.peer_id)
        address = parse_address(scene.bob.addresses[0])
        await scene.alice._transport.dial(scene.bob.peer_id, address)
        new = await scene.alice.open_stream(scene.bob.peer_id, ECHO)
        assert (old.path, new.path) == ("relayed", "direct")
        for stream in (old, new):
            await stream.send_all(b"both work")
            assert await stream.receive_exactly(9) == b"both work"


async def test_no_circuit_through_a_circuit() -> None:
    """Bob is a relay whom alice reaches through the relay only."""
    config = NodeConfig(client_mode=True, relay=True)
    async with open_scene(config) as scene, open_node(CLIENT) as carol:
        await scene.alice.connect_address(scene.circuit)
        unknown = f"{NOBODY}/p2p/{scene.bob.peer_id}/p2p-circuit/p2p/{carol.peer_id}"
        cause = await causes_of(scene.alice, unknown)
        assert cause.startswith("the relay cannot be reached")


async def test_a_direct_dial_goes_on_when_a_circuit_was_quicker() -> None:
    """The direct way answers only when the circuit already stands, and then takes new streams."""
    may_answer = trio.Event()

    async def answer_late(inbound: trio.SocketStream) -> None:
        await may_answer.wait()
        bob = parse_tcp_address(scene.bob.addresses[0])
        outbound = await trio.open_tcp_stream(bob.host, bob.port)
        async with outbound, trio.open_nursery() as both:
            both.start_soon(pour, inbound, outbound)
            both.start_soon(pour, outbound, inbound)

    async def pour(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)

    async with open_scene(NodeConfig()) as scene, trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer_late, [listener])
        late = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{scene.bob.peer_id}"
        await scene.alice.connect(scene.bob.peer_id, (late, scene.circuit))
        assert (await scene.alice.open_stream(scene.bob.peer_id, ECHO)).path == "relayed"
        may_answer.set()
        with trio.fail_after(10):
            while (
                stream := await scene.alice.open_stream(scene.bob.peer_id, ECHO)
            ).path != "direct":
                stream.reset()
                await trio.sleep(0.01)
        await stream.send_all(b"direct")
        assert await stream.receive_exactly(6) == b"direct"
        nursery.cancel_scope.cancel()
