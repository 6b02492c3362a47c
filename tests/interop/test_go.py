"""go-libp2p and we: connect, identify, ping, echo and a slow reader, both ways.

The daemon closes or resets a whole stream as soon as one direction has ended, on whichever side,
so an echo ends only when all has come back. That go itself half-closes shows in identify.
"""

from __future__ import annotations

import pytest
import trio

from p2p import Node, Stream, StreamBroken, open_node
from tests.interop.go_peer import GoPeer, echo, open_go_peer, read_exactly
from tests.interop.ours import echo as our_echo
from tests.interop.ours import identify_of, ping, send_and_compare
from tests.interop.processes import ECHO, GO, SIZE_BYTES, pattern

pytestmark = pytest.mark.slow
NEEDS = GO
PAUSE_S = 6.0
"""Longer than the five seconds after which a stock py-libp2p host gives up on a reader."""
STREAMS = 4
"""Enough that not each of them meets a race that one in five hundred does."""


async def connect(go: GoPeer, ours: Node, *, we_dial: bool) -> None:
    ours.serve(ECHO, our_echo)
    await go.serve(ECHO, echo)
    if we_dial:
        assert await ours.connect_address(go.addresses[0]) == go.peer_id
    else:
        await go.connect(ours.addresses[0])


async def go_sends_and_compares(
    go: GoPeer, ours: Node, data: bytes, *, pause_s: float = 0.0
) -> None:
    async with go.stream(ours.peer_id, ECHO) as stream:

        async def send() -> None:
            await stream.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            # The other side's patience is real time in another process.
            await trio.sleep(pause_s)
            assert await read_exactly(stream, len(data)) == data


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial go", "go dials us"])
async def test_they_know_each_other(we_dial: bool) -> None:
    async with open_go_peer() as go, open_node() as ours:
        await connect(go, ours, we_dial=we_dial)
        assert await go.peers() == {ours.peer_id}
        told = await identify_of(ours, go.peer_id)
        assert told.agent
        assert told.peer_id == go.peer_id
        assert {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= told.protocols
        assert told.observed.startswith("/ip4/127.0.0.1/tcp/")
        assert await ping(ours, go.peer_id) > 0
        async with go.stream(ours.peer_id, "/ipfs/ping/1.0.0") as stream:
            await stream.send_all(bytes(range(32)))
            assert await read_exactly(stream, 32) == bytes(range(32))


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial go", "go dials us"])
async def test_sixteen_mebibytes_come_back_the_same(we_dial: bool) -> None:
    async with open_go_peer() as go, open_node() as ours:
        await connect(go, ours, we_dial=we_dial)
        data = pattern(SIZE_BYTES)
        await send_and_compare(ours, go.peer_id, data, half_close=False)
        await go_sends_and_compares(go, ours, data)


async def test_slow_readers_are_borne_with() -> None:
    async with open_go_peer() as go, open_node() as ours:
        await connect(go, ours, we_dial=True)
        data = pattern(SIZE_BYTES)
        async with trio.open_nursery() as nursery:

            async def go_pauses() -> None:
                await go_sends_and_compares(go, ours, data, pause_s=PAUSE_S)

            nursery.start_soon(go_pauses)
            await send_and_compare(ours, go.peer_id, data, pause_s=PAUSE_S, half_close=False)


async def test_all_that_we_send_comes_before_the_end() -> None:
    async with open_go_peer() as go, open_node() as ours:
        data = pattern(SIZE_BYTES)
        send, receive = trio.open_memory_channel[bytes](1)

        async def take(stream: trio.SocketStream) -> None:
            await send.send(b"".join([part async for part in stream]))

        await go.serve(ECHO, take)
        await ours.connect_address(go.addresses[0])
        stream = await ours.open_stream(go.peer_id, ECHO)
        await stream.send_all(data)
        await stream.aclose()
        assert await receive.receive() == data


async def test_all_that_go_sends_comes_before_the_end() -> None:
    """Each stream ends with all of it, or is said to be broken.

    The daemon closes its reading half first, sees in another thread that it cannot read on, and
    resets what it is about to finish: a race of its own, of which we see the reset alone.
    """
    async with open_go_peer() as go, open_node() as ours:
        data = pattern(SIZE_BYTES)
        send, receive = trio.open_memory_channel[bytes | None](1)

        async def take(stream: Stream) -> None:
            received = bytearray()
            try:
                while part := await stream.receive_some():
                    received += part
            except StreamBroken:
                await send.send(None)
            else:
                await send.send(bytes(received))

        ours.serve(ECHO, take)
        await go.connect(ours.addresses[0])
        ended = 0
        for _ in range(STREAMS):
            async with go.stream(ours.peer_id, ECHO) as stream:
                await stream.send_all(data)
                await stream.send_eof()
                received = await receive.receive()
            if received is not None:
                assert received == data
                ended += 1
        assert ended
