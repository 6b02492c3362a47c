"""The relay among simulated peers: who may reserve and connect, and when circuits end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2p import Node, RelayLimits, Stream, StreamBroken
from p2p.protobuf import framed
from p2p.relay.schema import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    CircuitLimit,
    Hop,
    HopType,
    Status,
    Stop,
    StopType,
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
)
from p2p.relay.server import RelayServer, open_relay_server
from p2p.testing import SimNetwork, run_sim


@dataclass
class Scene:
    """Alice wants to reach bob; the relay is between them."""

    relay: Node
    server: RelayServer
    alice: Node
    bob: Node

    async def ask(self, node: Node, message: bytes) -> tuple[Hop, Stream]:
        """The relay's answer, and the stream that a circuit goes on with."""
        stream = await node.open_stream(self.relay.peer_id, HOP_PROTOCOL)
        await stream.send_all(framed(message))
        return decode_hop_untrusted(await read_message_untrusted(stream)), stream

    async def reserve(self, node: Node) -> Hop:
        answer, stream = await self.ask(node, encode_hop(Hop(type=HopType.RESERVE)))
        await stream.aclose()
        return answer

    async def connect(self) -> tuple[Hop, Stream]:
        message = Hop(type=HopType.CONNECT, peer_id=self.bob.peer_id)
        return await self.ask(self.alice, encode_hop(message))


async def accept_and_echo(stream: Stream) -> None:
    """Take a circuit as bob does, and send all back."""
    request = decode_stop_untrusted(await read_message_untrusted(stream))
    assert request.type == StopType.CONNECT
    await stream.send_all(framed(encode_stop(Stop(type=StopType.STATUS, status=Status.OK))))
    while data := await stream.receive_some():
        await stream.send_all(data)


async def refuse(stream: Stream) -> None:
    """Turn a circuit down."""
    answer = Stop(type=StopType.STATUS, status=Status.PERMISSION_DENIED)
    await stream.send_all(framed(encode_stop(answer)))


@asynccontextmanager
async def open_scene(network: SimNetwork, **limits: int) -> AsyncIterator[Scene]:
    async with (
        network.open_node() as relay,
        network.open_node() as alice,
        network.open_node(client_mode=True) as bob,
        open_relay_server(relay._transport, relay.identity, RelayLimits(**limits)) as server,
    ):
        bob.serve(STOP_PROTOCOL, accept_and_echo)
        for node in (alice, bob):
            await node.connect(relay.peer_id, relay.addresses)
        yield Scene(relay, server, alice, bob)


def test_a_circuit_carries_bytes_and_the_end() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network) as scene:
            granted = await scene.reserve(scene.bob)
            assert granted.status == Status.OK
            assert granted.reservation is not None
            assert granted.reservation.addresses
            assert scene.server.holders == (scene.bob.peer_id,)
            answer, circuit = await scene.connect()
            assert answer.status == Status.OK
            await circuit.send_all(b"hello")
            await circuit.send_eof()
            assert await circuit.receive_exactly(5) == b"hello"
            assert await circuit.receive_some() == b""

    run_sim(1, main)


def test_nobody_is_reached_without_a_reservation() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network) as scene:
            assert (await scene.connect())[0].status == Status.NO_RESERVATION
            await scene.reserve(scene.bob)
            await scene.bob.disconnect(scene.relay.peer_id)
            await scene.relay.wait_disconnected(scene.bob.peer_id)
            assert (await scene.connect())[0].status == Status.NO_RESERVATION

    run_sim(1, main)


def test_a_peer_that_refuses_is_not_reached() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network) as scene:
            await scene.reserve(scene.bob)
            scene.bob.serve(STOP_PROTOCOL, refuse)
            assert (await scene.connect())[0].status == Status.CONNECTION_FAILED

    run_sim(1, main)


def test_a_full_relay_refuses() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, reservations_max=1, circuits_max=1) as scene:
            await scene.reserve(scene.bob)
            assert (await scene.reserve(scene.alice)).status == Status.RESERVATION_REFUSED
            assert (await scene.reserve(scene.bob)).status == Status.OK
            _, first = await scene.connect()
            assert (await scene.connect())[0].status == Status.RESOURCE_LIMIT_EXCEEDED
            first.reset()
            # On the simulated clock: the news of the reset is on its way.
            await trio.sleep(1)
            assert (await scene.connect())[0].status == Status.OK

    run_sim(1, main)


def test_a_circuit_ends_when_it_has_carried_its_bytes() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, circuit_bytes_each_way=1_000) as scene:
            await scene.reserve(scene.bob)
            _, circuit = await scene.connect()
            await circuit.send_all(bytes(1_000))
            assert await circuit.receive_exactly(1_000) == bytes(1_000)
            with pytest.raises(StreamBroken):
                await circuit.send_all(b"x")
                await circuit.receive_exactly(1)

    run_sim(1, main)


def test_an_idle_circuit_ends_in_time() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, circuit_duration_s=60) as scene:
            await scene.reserve(scene.bob)
            began_at_s = trio.current_time()
            _, circuit = await scene.connect()
            await circuit.wait_broken()
            assert 60 <= trio.current_time() - began_at_s < 62

    run_sim(1, main)


@pytest.mark.parametrize("message", [b"", b"\xff", b"\x08\x07", b"\x08\x01"])
def test_nonsense_is_answered_and_harms_nobody(message: bytes) -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network) as scene:
            answer, _ = await scene.ask(scene.alice, message)
            assert answer.status in (Status.MALFORMED_MESSAGE, Status.UNEXPECTED_MESSAGE)
            assert (await scene.reserve(scene.bob)).status == Status.OK

    run_sim(1, main)


def test_a_circuit_is_as_fast_as_the_relay_lets_it() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, circuit_bytes_per_s=1_000) as scene:
            await scene.reserve(scene.bob)
            _, circuit = await scene.connect()
            began_at_s = trio.current_time()
            for _ in range(10):
                # There and back counts twice.
                await circuit.send_all(bytes(500))
                await circuit.receive_exactly(500)
            assert 8.5 < trio.current_time() - began_at_s < 10

    run_sim(1, main)


def test_a_flood_is_refused_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, requests_per_minute_and_peer=5) as scene:
            for _ in range(5):
                assert (await scene.reserve(scene.bob)).status == Status.OK
            for _ in range(20):
                assert (await scene.reserve(scene.bob)).status == Status.RESOURCE_LIMIT_EXCEEDED
            await trio.sleep(60)
            assert (await scene.reserve(scene.bob)).status == Status.OK

    run_sim(1, main)
    refused = [one for one in caplog.records if one.getMessage().startswith("relay_refuses")]
    assert ["asks too often" in one.getMessage() for one in refused] == [True]


def test_a_quota_ends_a_circuit_and_the_next_is_refused() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_scene(network, peer_bytes_per_hour=100_000) as scene:
            await scene.reserve(scene.bob)
            _, circuit = await scene.connect()
            await circuit.send_all(bytes(50_000))
            await circuit.receive_exactly(50_000)
            with pytest.raises(StreamBroken):
                await circuit.send_all(b"x")
                await circuit.receive_exactly(1)
            assert (await scene.connect())[0].status == Status.RESOURCE_LIMIT_EXCEEDED

    run_sim(1, main)


def test_limits_are_told_on_both_sides() -> None:
    async def main(network: SimNetwork) -> None:
        told: list[CircuitLimit | None] = []

        async def note(stream: Stream) -> None:
            told.append(decode_stop_untrusted(await read_message_untrusted(stream)).limit)

        async with open_scene(
            network, circuit_duration_s=50, circuit_bytes_each_way=1_000
        ) as scene:
            granted = await scene.reserve(scene.bob)
            scene.bob.serve(STOP_PROTOCOL, accept_and_echo)
            told.append(granted.limit)
            told.append((await scene.connect())[0].limit)
            scene.bob.serve(STOP_PROTOCOL, note)
            await scene.connect()
        assert told == [CircuitLimit(duration_s=50, bytes_each_way=1_000)] * 3

    run_sim(1, main)
