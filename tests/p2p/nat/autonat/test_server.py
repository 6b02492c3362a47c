"""Dial-back over streams: who is dialed, what the answer tells, and what hostile requests get."""

from __future__ import annotations

import trio

from p2p import Identity, Node, PeerId
from p2p.address import TcpAddress
from p2p.host.transport import DialError
from p2p.nat.autonat import AUTONAT_PROTOCOL, ask_dial_back, serving_dial_back
from p2p.nat.autonat.policy import PER_HOST_MAX
from p2p.nat.autonat.schema import (
    MESSAGE_BYTES_MAX,
    DialRequest,
    DialResponse,
    Status,
    decode_response_untrusted,
    encode_request,
    read_message_untrusted,
)
from p2p.nat.autonat.server import DIAL_TIMEOUT_S
from p2p.nat.verdicts import Answer, Question, Server
from p2p.protobuf import framed, varint
from p2p.testing import SimNetwork, run_sim

ALICE, BOB, VICTIM = "5.6.7.1", "5.6.8.1", "9.9.9.9"
HOME = TcpAddress("ip4", ALICE, 4001)


class World:
    """Alice asks bob, and the world outside answers as it was told."""

    def __init__(self) -> None:
        self.open: dict[TcpAddress, PeerId] = {}
        self.silent: set[TcpAddress] = set()
        self.dialed: list[TcpAddress] = []

    async def probe(self, peer_id: PeerId, address: TcpAddress) -> None:
        self.dialed.append(address)
        if address in self.silent:
            await trio.sleep_forever()
        await trio.sleep(0.05)
        if self.open.get(address) != peer_id:
            raise DialError("connection refused (nothing listens there)")


async def connect(alice: Node, bob: Node) -> None:
    await alice.connect(bob.peer_id, bob.addresses)


async def send(alice: Node, bob: Node, data: bytes) -> DialResponse:
    """Send raw bytes as a request, and read the answer."""
    stream = await alice.open_stream(bob.peer_id, AUTONAT_PROTOCOL)
    await stream.send_all(data)
    await stream.send_eof()
    response = decode_response_untrusted(await read_message_untrusted(stream))
    await stream.aclose()
    return response


async def ask(alice: Node, bob: Node, address: TcpAddress) -> Answer:
    question = Question(address, Server(bob.peer_id, BOB, independent=True))
    return await ask_dial_back(alice._transport, alice.peer_id, question)


def test_each_outcome_is_told_and_no_more() -> None:
    async def main(network: SimNetwork) -> None:
        world = World()
        async with (
            network.open_node("alice", host=ALICE) as alice,
            network.open_node("bob", host=BOB) as bob,
        ):
            await connect(alice, bob)
            with serving_dial_back(bob._transport, world.probe):
                world.open[HOME] = alice.peer_id
                assert await ask(alice, bob, HOME) is Answer.REACHED
                # Nothing there, somebody else there, and silence are all the same to who asks.
                shut, other, deaf = (TcpAddress("ip4", ALICE, port) for port in (5001, 5002, 5003))
                world.open[other] = bob.peer_id
                world.silent.add(deaf)
                answers = []
                for one in (shut, other, deaf):
                    began_s = trio.current_time()
                    request = DialRequest(alice.peer_id, (one,))
                    answers.append(await send(alice, bob, framed(encode_request(request))))
                    assert trio.current_time() - began_s < DIAL_TIMEOUT_S + 1
                assert answers == [DialResponse(Status.DIAL_ERROR)] * 3
            # Who serves it no more does not answer at all.
            assert await ask(alice, bob, HOME) is Answer.SILENT

    run_sim(1, main)


def test_the_one_that_works_is_named() -> None:
    async def main(network: SimNetwork) -> None:
        world = World()
        async with (
            network.open_node("alice", host=ALICE) as alice,
            network.open_node("bob", host=BOB) as bob,
        ):
            await connect(alice, bob)
            with serving_dial_back(bob._transport, world.probe):
                world.open[HOME] = alice.peer_id
                deaf = TcpAddress("ip4", ALICE, 5003)
                world.silent.add(deaf)
                request = DialRequest(alice.peer_id, (deaf, HOME))
                response = await send(alice, bob, framed(encode_request(request)))
                assert response == DialResponse(Status.OK, HOME)

    run_sim(1, main)


def test_nobody_is_dialed_for_somebody_else() -> None:
    async def main(network: SimNetwork) -> None:
        world = World()
        async with (
            network.open_node("alice", host=ALICE) as alice,
            network.open_node("bob", host=BOB) as bob,
        ):
            await connect(alice, bob)
            with serving_dial_back(bob._transport, world.probe):
                victim = TcpAddress("ip4", VICTIM, 4001)
                assert await ask(alice, bob, victim) is Answer.REFUSED
                # Nor is another peer looked for at our own address.
                request = DialRequest(Identity.generate().peer_id, (HOME,))
                response = await send(alice, bob, framed(encode_request(request)))
                assert response == DialResponse(Status.BAD_REQUEST)
                assert world.dialed == []

    run_sim(1, main)


def test_a_flood_is_refused_and_dials_little() -> None:
    async def main(network: SimNetwork) -> None:
        world = World()
        async with (
            network.open_node("alice", host=ALICE) as alice,
            network.open_node("bob", host=BOB) as bob,
        ):
            await connect(alice, bob)
            answers: list[Answer] = []

            async def flood() -> None:
                answers.append(await ask(alice, bob, HOME))

            with serving_dial_back(bob._transport, world.probe):
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        nursery.start_soon(flood)
                # One at a time for each peer.
                assert len(world.dialed) == 1
                for _ in range(100):
                    await flood()
                assert len(world.dialed) == PER_HOST_MAX
                assert answers.count(Answer.REFUSED) == 200 - PER_HOST_MAX
                await trio.sleep(61)
                world.open[HOME] = alice.peer_id
                assert await ask(alice, bob, HOME) is Answer.REACHED

    run_sim(1, main)


def test_garbage_is_a_bad_request() -> None:
    async def main(network: SimNetwork) -> None:
        world = World()
        async with (
            network.open_node("alice", host=ALICE) as alice,
            network.open_node("bob", host=BOB) as bob,
        ):
            await connect(alice, bob)
            with serving_dial_back(bob._transport, world.probe):
                for data in (
                    framed(b""),
                    framed(b"\xff" * 50),
                    varint(MESSAGE_BYTES_MAX + 1) + bytes(100),
                    b"\xff\xff\xff\xff",
                    framed(encode_request(DialRequest(alice.peer_id, (HOME,) * 300))),
                ):
                    assert await send(alice, bob, data) == DialResponse(Status.BAD_REQUEST)
                assert world.dialed == []
            assert network.handler_errors == []

    run_sim(1, main)
