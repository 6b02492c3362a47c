"""A thousand cancelled writes and reads on one connection: the streams beside them lose nothing."""

import hashlib
import random

import pytest
import trio

from p2p import Node, NodeConfig, Stream, StreamBroken, open_node
from p2p.host.yamux_window import RECEIVE_WINDOW
from tests.p2p.host.filling import Filling
from tests.p2p.host.peers import until
from tests.p2p.host.wires import pattern
from tests.p2p.worlds import PROTOCOL, echo

SWALLOW, HANG, SUM = "/test/swallow/1", "/test/hang/1", "/test/sum/1"
PROSE = "/test/prose/1"
CANCELLED = 1_000


async def swallow(stream: Stream) -> None:
    """Take what comes, slowly enough that writers have to wait."""
    while await stream.receive_some(50_000):
        await trio.lowlevel.checkpoint()


async def hang(stream: Stream) -> None:
    """Say something, and then nothing, until the caller goes."""
    await stream.send_all(b"half")
    await stream.wait_broken()


async def add_up(stream: Stream) -> None:
    """Answer with the hash of all that came."""
    digest = hashlib.sha256()
    while data := await stream.receive_some():
        digest.update(data)
    await stream.send_all(digest.digest())


@pytest.mark.slow
async def test_a_thousand_cancelled_writes_and_reads() -> None:
    rng = random.Random(7)
    async with open_node() as bob, open_node(NodeConfig(client_mode=True)) as alice:
        for protocol, handler in (
            (PROTOCOL, echo),
            (SWALLOW, swallow),
            (HANG, hang),
            (SUM, add_up),
        ):
            bob.serve(protocol, handler)
        await alice.connect_address(bob.addresses[0])
        [connection] = alice.connections
        async with trio.open_nursery() as nursery:
            over = trio.Event()
            nursery.start_soon(_keep_bulk_right, alice, bob, random.Random(1), over)
            nursery.start_soon(_keep_bulk_right, alice, bob, random.Random(2), over)
            cancelled = {"writes": 0, "reads": 0}
            while cancelled["writes"] < CANCELLED:
                cancelled["writes"] += await _cancel_a_write(alice, bob, rng)
            while cancelled["reads"] < CANCELLED:
                cancelled["reads"] += await _cancel_a_read(alice, bob, rng)
            over.set()
        # It is the same connection, and nothing of the cancelled streams stays on either side.
        assert alice.connections == (connection,)
        for node in (alice, bob):
            muxer = _only_muxer(node)
            await until(lambda muxer=muxer: muxer.stream_count == 0)
            assert muxer.session._unread.used == muxer.session.unsent_bytes == 0


def _only_muxer(node: Node):
    [[connection]] = node._transport._connections.values()  # type: ignore[attr-defined]
    return connection.muxer


async def _keep_bulk_right(alice: Node, bob: Node, rng: random.Random, over: trio.Event) -> None:
    """Bulk whose every byte counts, while others are cancelled."""
    stream = await alice.open_stream(bob.peer_id, SUM)
    digest = hashlib.sha256()
    while not over.is_set():
        data = rng.randbytes(100_000)
        digest.update(data)
        await stream.send_all(data)
        await trio.sleep(0.01)  # others need the processor, too
    await stream.send_eof()
    assert await stream.receive_exactly(32) == digest.digest()
    await stream.aclose()


async def _cancel_a_write(alice: Node, bob: Node, rng: random.Random) -> bool:
    """Cancel a write somewhere in its midst; whether it came to that."""
    stream = await alice.open_stream(bob.peer_id, SWALLOW)
    data = bytearray(RECEIVE_WINDOW * 4)
    with trio.move_on_after(rng.random() * 0.002) as scope:
        await stream.send_all(data if rng.random() < 0.5 else bytes(data))
    if scope.cancelled_caught and rng.random() < 0.5:
        with pytest.raises((StreamBroken, trio.ClosedResourceError)):
            # Either nothing was queued and the stream is as good as new, or it has been reset.
            await stream.send_all(b"more")
            stream.reset()
            await stream.send_all(b"more")
    stream.reset()
    return scope.cancelled_caught


async def _cancel_a_read(alice: Node, bob: Node, rng: random.Random) -> bool:
    """Cancel a read that waits, and one in the midst of an exact one, and read on."""
    stream = await alice.open_stream(bob.peer_id, HANG)
    with trio.move_on_after(rng.random() * 0.002) as scope:
        await stream.receive_exactly(5)
    assert await stream.receive_exactly(4) == b"half"
    stream.reset()
    return scope.cancelled_caught


async def recite(stream: Stream) -> None:
    """An endless text in pieces of all sizes, with pauses."""
    rng = random.Random(3)
    position = 0
    while True:
        piece = pattern(position, rng.choice((1, 700, 60_000, 200_000)))
        await stream.send_all(piece)
        position += len(piece)
        await trio.sleep(rng.choice((0, 0, 0.0005)))


@pytest.mark.slow
async def test_a_thousand_cancelled_reads_of_a_text_that_flows_lose_no_byte_of_it() -> None:
    async with open_node() as bob, open_node(NodeConfig(client_mode=True)) as alice:
        bob.serve(PROSE, recite)
        await alice.connect_address(bob.addresses[0])
        [connection] = alice.connections
        async with trio.open_nursery() as nursery:
            for seed in range(3):
                nursery.start_soon(_read_with_cancellations, alice, bob, random.Random(seed))
        assert alice.connections == (connection,)
        for node in (alice, bob):
            muxer = _only_muxer(node)
            await until(lambda muxer=muxer: muxer.stream_count == 0)
            assert muxer.session._unread.used == muxer.session.unsent_bytes == 0


async def _read_with_cancellations(alice: Node, bob: Node, rng: random.Random) -> None:
    """Read a text to which every read gives some, and a cancelled one loses nothing."""
    stream = await alice.open_stream(bob.peer_id, PROSE)
    position = cancelled = 0
    while cancelled < CANCELLED // 2:
        data, filling = b"", None
        with trio.move_on_after(rng.random() * 0.002) as scope:
            match rng.randrange(3):
                case 0:
                    data = await stream.receive_exactly(rng.randrange(1, 300_000))
                case 1:
                    data = await stream.receive_some(rng.choice((1, 5_000, 300_000)))
                case _:
                    filling = Filling(memoryview(bytearray(rng.randrange(1, 300_000))))
                    await stream.fill(filling)
        if filling is not None:
            # What a cancelled call has put in stays there.
            data = bytes(filling.buffer[: filling.size_bytes])
        assert data == pattern(position, len(data))
        position += len(data)
        cancelled += scope.cancelled_caught
    assert position > 1_000_000
    stream.reset()
