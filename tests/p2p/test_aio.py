"""asyncio programs host nodes: calls cross, cancellations too, and nothing stays behind."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import trio

from p2p import (
    Guest,
    Node,
    NodeConfig,
    PortalClosed,
    Stream,
    UnreachableError,
    open_guest,
    open_node,
)

ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def two_nodes(guest: Guest) -> AsyncIterator[tuple[Node, Node]]:
    bob = await guest.enter(open_node())
    bob.serve(ECHO, echo)
    alice = await guest.enter(open_node(NodeConfig(client_mode=True)))
    await guest.call(alice.connect_address, bob.addresses[0])
    yield alice, bob


async def say(alice: Node, bob: Node, data: bytes) -> bytes:
    stream = await alice.open_stream(bob.peer_id, ECHO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        received = await stream.receive_exactly(len(data))
    await stream.aclose()
    return received


def test_nodes_talk_inside_an_asyncio_loop() -> None:
    async def main() -> None:
        async with open_guest() as guest, two_nodes(guest) as (alice, bob):
            texts = [b"%d" % number * 1_000 for number in range(20)]
            said = await asyncio.gather(*(guest.call(say, alice, bob, text) for text in texts))
            assert said == texts

    asyncio.run(main())


def test_the_loops_own_work_goes_on_while_bulk_flows() -> None:
    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, open_guest() as guest, two_nodes(guest) as (alice, bob):
            heart = asyncio.create_task(beat())
            bulk = asyncio.create_task(guest.call(say, alice, bob, bytes(30_000_000)))
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            assert len(await bulk) == 30_000_000
            heart.cancel()
            assert beats > 3

    asyncio.run(main())


def test_errors_come_through_as_they_are() -> None:
    async def main() -> None:
        async with open_guest() as guest:
            node = await guest.enter(open_node(NodeConfig(client_mode=True)))
            nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
            with pytest.raises(UnreachableError, match="refused"):
                await guest.call(node.connect_address, nobody)
            with pytest.raises(ZeroDivisionError):
                await guest.call(fail)

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    asyncio.run(main())


def test_a_cancelled_task_ends_its_call_before_it_goes_on() -> None:
    ended = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            ended.append("call")

    async def main() -> None:
        async with open_guest() as guest:
            task = asyncio.create_task(guest.call(wait))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == ["call"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(guest.call(wait), 0.01)
            assert ended == ["call", "call"]
            # The guest itself lives on.
            assert await guest.call(value) == 5

    async def value() -> int:
        await trio.lowlevel.checkpoint()
        return 5

    asyncio.run(main())


def test_what_was_entered_is_left_newest_first() -> None:
    left = []

    @asynccontextmanager
    async def thing(name: str) -> AsyncIterator[str]:
        yield name
        left.append(name)

    async def main() -> None:
        async with open_guest() as guest:
            assert await guest.enter(thing("first")) == "first"
            assert await guest.enter(thing("second")) == "second"
        assert left == ["second", "first"]
        with pytest.raises(PortalClosed):
            await guest.call(trio.sleep, 0)

    asyncio.run(main())


def test_a_service_that_crashes_ends_the_block_and_fails_the_calls() -> None:
    @asynccontextmanager
    async def crashing() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def crash() -> None:
                await trio.sleep(0.02)
                raise ZeroDivisionError

            yield

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with open_guest() as guest:
                await guest.enter(crashing())
                await guest.call(trio.sleep_forever)

    asyncio.run(main())


def test_several_guests_take_turns_in_one_loop() -> None:
    async def main() -> None:
        async def one() -> None:
            async with open_guest() as guest, two_nodes(guest) as (alice, bob):
                assert await guest.call(say, alice, bob, b"hello") == b"hello"

        for _ in range(3):
            await one()

    asyncio.run(main())


@pytest.mark.slow
def test_nothing_stays_behind() -> None:
    async def main() -> None:
        async with open_guest() as guest, two_nodes(guest) as (alice, bob):
            await guest.call(say, alice, bob, b"hello")

    asyncio.run(main())
    gc.collect()
    # Trio keeps a thread or two for a while to wait with; they are not more each time.
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    assert threading.active_count() <= threads
    assert psutil.Process().num_fds() <= descriptors


def test_without_a_loop_there_is_an_error() -> None:
    async def main() -> None:
        async with open_guest():
            raise AssertionError

    with pytest.raises(RuntimeError, match="no running event loop"):
        main().send(None)
