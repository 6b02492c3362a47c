"""The hole puncher on real nodes: what it says where nothing can be punched, and whom it refuses.

Loopback is never punched to; that holes are punched, `tests/netlab/test_punching.py` shows.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2p import Node, NodeConfig, StreamBroken
from p2p.address import TcpAddress
from p2p.dial.dcutr import DCUTR_PROTOCOL, PunchMessage, PunchType, framed, receive_untrusted
from p2p.dial.hole_puncher import CUT_OFF_MAX, HolePuncher, open_hole_puncher
from p2p.dial.punch import ASKED_PER_PEER_MAX, PunchResult
from p2p.host.host import Host
from p2p.host.stream import Stream
from tests.p2p.host.test_relayed import Scene, open_scene

SEEN = TcpAddress("ip4", "127.0.0.1", 4001)


@dataclass
class Punching:
    """What a puncher has said."""

    puncher: HolePuncher
    results: trio.MemoryReceiveChannel[PunchResult]


@asynccontextmanager
async def open_punching(node: Node, *seen: TcpAddress) -> AsyncIterator[Punching]:
    host = node._transport
    assert isinstance(host, Host)
    send, receive = trio.open_memory_channel[PunchResult](16)
    async with open_hole_puncher(
        node, host, observed=lambda: seen, on_result=send.send_nowait
    ) as puncher:
        yield Punching(puncher, receive)


async def ask(scene: Scene, data: bytes) -> Stream:
    """Bob, to whom alice has come, sends this as the request to punch."""
    stream = await scene.bob.open_stream(scene.alice.peer_id, DCUTR_PROTOCOL)
    await stream.send_all(data)
    return stream


CONNECT = framed(PunchMessage(type=PunchType.CONNECT, addresses=(SEEN,)))


async def test_where_nobody_knows_how_it_is_seen_it_says_so() -> None:
    async with (
        open_scene(NodeConfig()) as scene,
        open_punching(scene.alice),
        open_punching(scene.bob) as bobs,
    ):
        await scene.alice.connect_address(scene.circuit)
        result = await bobs.results.receive()
        assert (result.peer_id, result.outcome) == (scene.alice.peer_id, "failed")
        assert result.began
        assert result.tries == 1
        assert result.reason.startswith("Nobody has told us yet how we are seen from outside")
        assert bobs.puncher.results == {scene.alice.peer_id: result}
        # The relayed connection serves on.
        stream = await scene.alice.open_stream(scene.bob.peer_id, "/test/echo/1")
        await stream.send_all(b"on")
        assert await stream.receive_exactly(2) == b"on"
        # Another network is another chance.
        bobs.puncher.on_network_changed()
        assert (await bobs.results.receive()).outcome == "failed"


async def test_a_peer_that_does_not_punch_is_left_alone() -> None:
    async with open_scene(NodeConfig()) as scene, open_punching(scene.bob) as bobs:
        await scene.alice.connect_address(scene.circuit)
        result = await bobs.results.receive()
        assert result.reason.startswith("The peer does not take part in punching: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cuts", "reason"),
    [
        (1, "The peer offered no address that can be dialed from here."),
        (99, "The peer does not take part in punching: "),
    ],
)
async def test_a_try_that_is_cut_off_is_repeated_but_not_without_end(
    cuts: int, reason: str
) -> None:
    async with (
        open_scene(NodeConfig()) as scene,
        open_punching(scene.bob, TcpAddress("ip4", "5.6.7.8", 4001)) as bobs,
    ):
        asked: list[int | None] = []

        async def cut_off(stream: Stream) -> None:
            """As one of two connections does that a peer made through two relays at once."""
            asked.append((await receive_untrusted(stream, PunchType.CONNECT)).try_number)
            if len(asked) <= cuts:
                stream.reset()
            else:
                await stream.send_all(CONNECT)

        scene.alice.serve(DCUTR_PROTOCOL, cut_off)
        await scene.alice.connect_address(scene.circuit)
        result = await bobs.results.receive()
        assert result.reason.startswith(reason)
        assert result.tries == 1
        assert asked == [1] * min(cuts + 1, CUT_OFF_MAX + 1)


async def test_who_came_before_the_puncher_is_punched_to() -> None:
    async with open_scene(NodeConfig()) as scene:
        await scene.alice.connect_address(scene.circuit)
        stream = await scene.alice.open_stream(scene.bob.peer_id, "/test/echo/1")
        await stream.send_all(b"here")
        assert await stream.receive_exactly(4) == b"here"
        async with open_punching(scene.bob) as bobs:
            await bobs.results.receive()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x81\x40" + bytes(8193), "too long"),
        (b"\x05garbage", "cut off"),
        (framed(PunchMessage(type=PunchType.SYNC)), "SYNC came where CONNECT was due"),
    ],
)
async def test_what_is_no_request_is_refused_and_logged_once(
    data: bytes, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="p2p.dial.hole_puncher")
    async with open_scene(NodeConfig()) as scene, open_punching(scene.alice) as alices:
        await scene.alice.connect_address(scene.circuit)
        for _ in range(3):
            stream = await ask(scene, data)
            with pytest.raises(StreamBroken):
                await stream.receive_exactly(1)
        [record] = [one for one in caplog.records if "punch_refused" in one.message]
        assert what in record.message
        assert alices.puncher.results == {}


async def test_requests_over_direct_connections_and_of_those_we_received_are_refused() -> None:
    async with (
        open_scene(NodeConfig()) as scene,
        open_punching(scene.bob),
    ):
        # Bob has received alice: it is his to begin, not hers.
        await scene.alice.connect_address(scene.circuit)
        stream = await scene.alice.open_stream(scene.bob.peer_id, DCUTR_PROTOCOL)
        await stream.send_all(CONNECT)
        with pytest.raises(StreamBroken):
            await stream.receive_exactly(1)
        direct = await scene.relay.open_stream(scene.bob.peer_id, DCUTR_PROTOCOL)
        assert direct.path == "direct"
        await direct.send_all(CONNECT)
        with pytest.raises(StreamBroken):
            await direct.receive_exactly(1)


async def test_nobody_makes_us_dial_without_end_nor_into_this_machine() -> None:
    async with open_scene(NodeConfig()) as scene, open_punching(scene.alice, SEEN) as alices:
        await scene.alice.connect_address(scene.circuit)
        for number in range(1, ASKED_PER_PEER_MAX + 1):
            stream = await ask(scene, CONNECT)
            answer = await receive_untrusted(stream, PunchType.CONNECT)
            # What we are told of ourselves is as suspect: loopback is nobody's business.
            assert answer.addresses == ()
            assert answer.try_number == min(number, ASKED_PER_PEER_MAX)
            await stream.send_all(framed(PunchMessage(type=PunchType.SYNC)))
            if number >= 3:
                result = await alices.results.receive()
                assert (result.outcome, result.began) == ("failed", False)
        stream = await ask(scene, CONNECT)
        with pytest.raises(StreamBroken):
            await stream.receive_exactly(1)
        assert [
            one.path for one in scene.alice.connections if one.peer_id == scene.bob.peer_id
        ] == ["relayed"]
