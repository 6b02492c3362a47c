"""Streams of the real and the simulated transport behave alike, as far as programs can tell."""

import pytest
import trio
import trio.testing

from p2p import Node, RefusedError, Stream, StreamBroken
from tests.p2p.worlds import PROTOCOL, both_ends, echo

# Bytes


async def test_bytes_arrive_in_order_whatever_their_size(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    bob.serve(PROTOCOL, echo)
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    data = bytes(range(256)) * 12_000

    async def send() -> None:
        position = 0
        for size in (1, 2, 1_000, 70_000, 500_000, len(data)):
            await stream.send_all(memoryview(data)[position : position + size])
            position += size
        await stream.send_eof()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await stream.receive_exactly(len(data)) == data
            assert await stream.receive_some() == b""
    assert await stream.receive_some() == b""


async def test_a_buffer_may_be_reused_after_sending(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        buffer = bytearray(b"first")
        await here.send_all(buffer)
        buffer[:] = b"other"
        await here.send_all(memoryview(buffer))
        assert await there.receive_exactly(10) == b"firstother"


async def test_receiving_at_most_so_many(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"abc")
        assert await there.receive_some(1) == b"a"
        assert await there.receive_exactly(2) == b"bc"
        assert await there.receive_exactly(0) == b""
        with pytest.raises(ValueError, match="max_bytes"):
            await there.receive_some(0)


async def test_half_close_leaves_the_other_way_open(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"question")
        await here.send_eof()
        assert await there.receive_exactly(8) == b"question"
        assert await there.receive_some() == b""
        await there.send_all(b"answer")
        assert await here.receive_exactly(6) == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await here.send_all(b"more")
        await here.send_eof()


async def test_an_early_end_breaks_exact_reads(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"abc")
        await here.send_eof()
        with pytest.raises(StreamBroken, match="early"):
            await there.receive_exactly(4)


async def test_closing_delivers_what_was_sent(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"last words")
        await here.aclose()
        await here.aclose()
        assert await there.receive_exactly(10) == b"last words"
        assert await there.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await here.send_all(b"more")
        with pytest.raises(trio.ClosedResourceError):
            await here.receive_some()


async def test_who_keeps_sending_to_a_closed_stream_is_cut_off(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.aclose()
        with trio.fail_after(5), pytest.raises(StreamBroken):
            while True:
                await there.send_all(bytes(10_000))
                await trio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_a_slow_reader_holds_the_writer_back(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        sent_bytes = 0

        async def send() -> None:
            nonlocal sent_bytes
            while True:
                await here.send_all(bytes(65_536))
                sent_bytes += 65_536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            # The writer stands still once nothing has moved for a while.
            before = -1
            while sent_bytes != before:
                before = sent_bytes
                await trio.testing.wait_all_tasks_blocked(0.1)
            assert 262_144 <= sent_bytes <= 4_194_304
            with trio.fail_after(5):
                await there.receive_exactly(sent_bytes)
                while sent_bytes == before:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


# Ends without order


async def test_a_reset_breaks_both_sides(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.wait_broken)
            here.reset()
            here.reset()
        for stream in (here, there):
            with pytest.raises(StreamBroken):
                await stream.receive_some()
            with pytest.raises(StreamBroken):
                await stream.send_all(b"x")
            await stream.wait_broken()
    alice, bob = pair
    assert alice.connected_peers == (bob.peer_id,)


async def test_a_reset_after_closing_is_harmless(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"last words")
        await here.aclose()
        here.reset()
        assert await there.receive_exactly(10) == b"last words"
        assert await there.receive_some() == b""


async def test_an_orderly_end_does_not_count_as_broken(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_eof()
        assert await there.receive_some() == b""
        with trio.move_on_after(0.05) as scope:
            await there.wait_broken()
        assert scope.cancelled_caught


async def test_an_unserved_protocol_is_refused_at_the_first_receive(
    pair: tuple[Node, Node],
) -> None:
    alice, bob = pair
    stream = await alice.open_stream(bob.peer_id, "/test/nothing/1")
    await stream.send_all(b"hello")
    for _ in range(2):
        with trio.fail_after(5), pytest.raises(RefusedError) as caught:
            await stream.receive_some()
        assert caught.value.code == "protocol-not-supported"
    with pytest.raises(StreamBroken):
        await stream.send_all(b"hello")
    await stream.aclose()


async def test_a_protocol_served_no_more_is_refused(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    bob.serve(PROTOCOL, echo)
    old = await alice.open_stream(bob.peer_id, PROTOCOL)
    await old.send_all(b"a")
    assert await old.receive_exactly(1) == b"a"
    bob.stop_serving(PROTOCOL)
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    with trio.fail_after(5), pytest.raises(RefusedError):
        await stream.receive_some()
    # Streams already open go on.
    await old.send_all(b"b")
    assert await old.receive_exactly(1) == b"b"


@pytest.mark.parametrize(
    "error",
    [KeyError("a bug"), RefusedError("no"), ExceptionGroup("tasks", [KeyError("a bug")])],
    ids=["bug", "refusal", "group"],
)
async def test_a_handler_that_fails_resets_its_stream_only(
    pair: tuple[Node, Node], error: Exception
) -> None:
    alice, bob = pair
    bob.serve(PROTOCOL, echo)

    async def fail(stream: Stream) -> None:
        await stream.receive_some()
        raise error

    bob.serve("/test/fail/1", fail)
    good = await alice.open_stream(bob.peer_id, PROTOCOL)
    bad = await alice.open_stream(bob.peer_id, "/test/fail/1")
    await bad.send_all(b"x")
    with trio.fail_after(5), pytest.raises(StreamBroken):
        await bad.receive_some()
    await good.send_all(b"still here")
    assert await good.receive_exactly(10) == b"still here"


async def test_a_handler_that_returns_closes_its_stream(pair: tuple[Node, Node]) -> None:
    alice, bob = pair

    async def greet(stream: Stream) -> None:
        await stream.send_all(b"welcome")

    bob.serve(PROTOCOL, greet)
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    assert await stream.receive_exactly(7) == b"welcome"
    assert await stream.receive_some() == b""


# Cancellation


async def test_a_cancelled_receive_loses_nothing(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, there):
        await here.send_all(b"abc")
        with trio.move_on_after(0.05) as scope:
            await there.receive_exactly(6)
        assert scope.cancelled_caught
        await here.send_all(b"def")
        assert await there.receive_exactly(6) == b"abcdef"


async def test_a_send_cancelled_midway_resets_the_stream_only(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    async with both_ends(alice, bob) as (here, there):
        other = await alice.open_stream(bob.peer_id, PROTOCOL)
        with trio.move_on_after(0.05) as scope:
            await here.send_all(bytes(8_000_000))
        assert scope.cancelled_caught
        with trio.fail_after(5), pytest.raises(StreamBroken):
            while await there.receive_some():
                pass
        with pytest.raises(StreamBroken):
            await here.send_all(b"x")
        await other.send_all(b"well")
    assert alice.connected_peers == (bob.peer_id,)


async def test_two_senders_on_one_stream_are_a_mistake(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, _), trio.open_nursery() as nursery:
        nursery.start_soon(here.send_all, bytes(8_000_000))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await here.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_closing_under_a_waiting_reader(pair: tuple[Node, Node]) -> None:
    async with both_ends(*pair) as (here, _):

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await here.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await here.aclose()
