"""Links of a fixed rate: what passes, how fast, shared by all connections of a peer."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tools.bench.links import Bucket, Links, pump

RATE = 1_000_000.0


def test_a_bucket_passes_so_much_in_a_second_however_it_is_cut() -> None:
    for size in (1_000, 50_000):
        bucket = Bucket(RATE)
        bucket.take(size, 5.0)
        begun_s = bucket.take(size, 5.0)
        for _ in range(2_000_000 // size):
            passed_s = bucket.take(size, 5.0)
        assert passed_s - begun_s == pytest.approx(2.0)
        assert bucket.passed_bytes == 2_000_000 + 2 * size


def test_a_bucket_makes_up_for_a_short_delay_but_saves_nothing() -> None:
    bucket = Bucket(RATE)
    assert bucket.take(1_000, 0.0) <= 0.0
    # An hour of rest is worth no more than the moment before.
    assert bucket.take(1_000, 3_600.0) <= 3_600.0
    assert bucket.take(1_000_000, 3_600.0) > 3_600.9


async def carried_in_s(
    connections: int, up: Bucket, downs: list[Bucket], size: int, delay_s: float = 0.0
) -> float:
    """How long it takes until so many bytes have come through each connection."""
    begun_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(connections):
            sender, near = memory_stream_pair()
            far, receiver = memory_stream_pair()
            nursery.start_soon(pump, near, far, (up, downs[number]), delay_s)
            nursery.start_soon(send, sender, size)
            nursery.start_soon(expect, receiver, size)
    return trio.current_time() - begun_s


async def send(
    stream: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream], size: int
) -> None:
    await stream.send_all(bytes(range(256)) * (size // 256))
    await stream.send_eof()


async def expect(stream: trio.abc.ReceiveStream, size: int) -> None:
    come = b""
    while part := await stream.receive_some(100_000):
        come += part
    assert come == bytes(range(256)) * (size // 256)


@pytest.mark.parametrize("connections", [1, 3])
async def test_connections_of_a_peer_share_its_link(
    autojump_clock: MockClock, connections: int
) -> None:
    downs = [Bucket(10 * RATE) for _ in range(connections)]
    size = 1_024_000
    took_s = await carried_in_s(connections, Bucket(RATE), downs, size)
    assert took_s == pytest.approx(connections * size / RATE, rel=0.05)


async def test_the_slower_end_counts(autojump_clock: MockClock) -> None:
    took_s = await carried_in_s(1, Bucket(10 * RATE), [Bucket(RATE)], 1_024_000)
    assert took_s == pytest.approx(1.024, rel=0.05)


async def test_a_delay_comes_on_top_once_and_not_for_each_piece(autojump_clock: MockClock) -> None:
    took_s = await carried_in_s(1, Bucket(RATE), [Bucket(RATE)], 1_024_000, delay_s=0.25)
    assert took_s == pytest.approx(1.024 + 0.25, rel=0.01)


async def test_a_peer_that_comes_later_is_reached_where_it_was_placed(
    nursery: trio.Nursery,
) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.aclose()

    links = Links([0, 0], RATE)
    ports = await links.listen(nursery)
    assert await said_at(ports[1][0]) == b""
    listeners = await nursery.start(trio.serve_tcp, greet, 0)
    links.place(0, listeners[0].socket.getsockname()[1])
    assert await said_at(ports[1][0]) == b"hello"
    assert links.down[1].passed_bytes == links.up[0].passed_bytes == 5


async def said_at(port: int) -> bytes:
    """What whoever listens behind this port says; nothing where nobody does."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return b"".join([part async for part in stream])
