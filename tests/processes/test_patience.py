"""Pauses in real time: a slow reader is not reset, a frozen peer is not given up early."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p import Node, NodeConfig, PeerId, Stream, StreamBroken, open_node
from p2p.host.keepalive import BEAT_S, LOST_BEATS, PING_BEATS
from tests.netlab.peer import ECHO, HANG
from tests.processes.command import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAUSE_S = 30
MUCH = 40_000_000
SLOW = "/test/slow/1"


async def test_a_reader_that_pauses_is_not_reset_and_gets_everything() -> None:
    """Over either record layer; they pause at the same time."""
    async with trio.open_nursery() as nursery:
        for record_layer in ("auto", "noise"):
            nursery.start_soon(pause_over, record_layer)


async def pause_over(record_layer: str) -> None:
    """The reader pauses, streams beside it flow, and at the end it has everything."""
    came = bytearray()
    done = trio.Event()

    async def read_slowly(stream: Stream) -> None:
        came.extend(await stream.receive_exactly(1))
        await trio.sleep(PAUSE_S)
        while data := await stream.receive_some():
            came.extend(data)
        done.set()

    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    config = NodeConfig(record_layer=record_layer)  # type: ignore[arg-type]
    async with open_node(config) as bob, open_node(config) as alice, trio.open_nursery() as nursery:
        bob.serve(SLOW, read_slowly)
        bob.serve(ECHO, echo)
        await alice.connect_address(bob.addresses[0])
        sent = alice.rng.randbytes(MUCH)

        async def send() -> None:
            stream = await alice.open_stream(bob.peer_id, SLOW)
            await stream.send_all(sent)
            await stream.aclose()

        nursery.start_soon(send)
        for _ in range(PAUSE_S):
            # The streams beside it flow.
            stream = await alice.open_stream(bob.peer_id, ECHO)
            await stream.send_all(sent[:200_000])
            assert await stream.receive_exactly(200_000) == sent[:200_000]
            await stream.aclose()
            await trio.sleep(1)
        await done.wait()
    assert came == sent


def _start_peer() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.netlab.peer", "listen", "127.0.0.1"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def told(process: subprocess.Popen[bytes], event: str) -> str:
    """The next line of the peer that tells of this event."""
    assert process.stdout is not None
    while line := await trio.to_thread.run_sync(process.stdout.readline):
        if f'"{event}"' in line.decode():
            return line.decode()
    raise AssertionError(f"the peer ended before it was {event}")


@asynccontextmanager
async def open_peer_process() -> AsyncIterator[tuple[subprocess.Popen[bytes], Node, PeerId]]:
    """A node in a process of its own that can be frozen, and one here that is connected to it."""
    process = _start_peer()
    try:
        line = await told(process, "listening")
        address = line.partition('"address": "')[2].partition('"')[0]
        async with open_node(NodeConfig(client_mode=True)) as node:
            peer_id = await node.connect_address(address)
            # Frozen before it has noticed, it would never tell of the loss.
            await told(process, "connected")
            yield process, node, peer_id
    finally:
        process.kill()
        process.communicate()


async def test_a_peer_that_is_frozen_for_a_while_has_lost_nothing() -> None:
    async with open_peer_process() as (process, node, peer_id):
        [connection] = node.connections
        stream = await node.open_stream(peer_id, ECHO)
        await stream.send_all(b"before")
        assert await stream.receive_exactly(6) == b"before"
        process.send_signal(signal.SIGSTOP)
        await stream.send_all(b"meanwhile")
        await trio.sleep(8)
        process.send_signal(signal.SIGCONT)
        assert await stream.receive_exactly(9) == b"meanwhile"
        assert node.connections == (connection,)


async def test_a_peer_that_stays_frozen_is_lost_and_comes_back_on_a_new_connection() -> None:
    async with open_peer_process() as (process, node, peer_id):
        stream = await node.open_stream(peer_id, HANG)
        await stream.send_all(b"?")
        process.send_signal(signal.SIGSTOP)
        frozen_s = trio.current_time()
        with pytest.raises(StreamBroken):
            await stream.receive_exactly(1)
        silent_s = trio.current_time() - frozen_s
        assert silent_s >= BEAT_S * (LOST_BEATS - PING_BEATS)
        assert silent_s <= BEAT_S * (LOST_BEATS + PING_BEATS) + 2
        assert not node.is_connected(peer_id)
        process.send_signal(signal.SIGCONT)
        # The thawed peer notices that it was given up, too.
        await told(process, "lost")
        stream = await node.open_stream(peer_id, ECHO)
        await stream.send_all(b"again")
        assert await stream.receive_exactly(5) == b"again"
