"""The muxer: cancellations, pauses, black holes and farewells touch what they should, no more."""

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import StreamBroken
from p2p.host.muxed_stream import STREAM_UNSENT_BYTES_MAX, MuxedStream
from p2p.host.muxer import FAREWELL_S, Muxer
from p2p.host.yamux_frame import PING, SYN, WINDOW_UPDATE
from p2p.host.yamux_window import RECEIVE_WINDOW
from tests.p2p.host.muxers import check_alive, noise_pair, open_pair
from tests.p2p.host.wires import pattern, wire

# More than windows, queues and the memory stream hold, so that a writer has to wait.
MUCH = RECEIVE_WINDOW + 2 * STREAM_UNSENT_BYTES_MAX


# Cancellation


@pytest.mark.slow
async def test_two_hundred_cancelled_writes_leave_the_other_streams_intact() -> None:
    async with open_pair() as pair:
        witness = await pair.open()
        for _ in range(200):
            near, far = await pair.open()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(near.send_all, bytes(MUCH))
                    await wait_all_tasks_blocked()
                    scope.cancel()
            with pytest.raises(StreamBroken):
                await near.send_all(b"more")
            await wait_all_tasks_blocked()
            with pytest.raises(StreamBroken):
                await far.receive_some()
            await far.aclose()
            await check_alive(*witness)
        assert list(pair.near.session._streams) == list(pair.far.session._streams) == [1]
        assert pair.near.session.unsent_bytes == pair.far.session._unread.used == 0


async def test_a_write_cancelled_before_it_began_harms_nothing() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.send_all(b"never")
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.send_eof()
        await check_alive(near, far)


async def test_a_cancelled_exact_read_gives_back_what_it_had() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        for size_bytes in (1, 40_000, 3):
            await near.send_all(pattern(0, size_bytes))
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(far.receive_exactly, 100_000)
                    await wait_all_tasks_blocked()
                    scope.cancel()
        assert await far.receive_some(1) == pattern(0, 1)
        assert await far.receive_exactly(40_003) == pattern(0, 40_000) + pattern(0, 3)


async def test_one_task_at_a_time_in_each_direction() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(MUCH))
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            for action in (
                near.send_eof,
                near.receive_some,
                near.wait_send_all_might_not_block,
            ):
                with pytest.raises(trio.BusyResourceError):
                    await action()
            nursery.cancel_scope.cancel()
        await far.aclose()


async def test_closing_under_a_sender_is_no_orderly_end() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(bytes(MUCH))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            await near.aclose()
        await wait_all_tasks_blocked()
        with pytest.raises(StreamBroken):
            while await far.receive_some():
                pass


# Pauses


async def test_a_reader_may_pause_for_long_and_stalls_nobody(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        paused, reader = await pair.open()
        others = [await pair.open() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(paused.send_all, bytes(MUCH))
            for _ in range(30):
                await trio.sleep(10)
                for near, far in others:
                    await near.send_all(pattern(7, 300_000))
                    assert await far.receive_exactly(300_000) == pattern(7, 300_000)
            assert await reader.receive_exactly(MUCH) == bytes(MUCH)
        await check_alive(paused, reader)


async def test_waiting_for_room() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        await near.wait_send_all_might_not_block()
        # All that fits into the window and the queue, and no more.
        await near.send_all(bytes(RECEIVE_WINDOW + STREAM_UNSENT_BYTES_MAX))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_send_all_might_not_block)
            await wait_all_tasks_blocked()
            assert near.sending
            await far.receive_exactly(RECEIVE_WINDOW)
        assert not near.sending


# Loss


@pytest.mark.parametrize("is_sending", [False, True])
async def test_a_black_hole_is_noticed_within_twenty_seconds(
    autojump_clock: MockClock, is_sending: bool
) -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        await trio.sleep(100)
        assert not pair.near.lost.is_set()
        began_at_s = trio.current_time()
        pair.black_hole()
        async with trio.open_nursery() as nursery:
            if is_sending:

                async def send() -> None:
                    with pytest.raises(StreamBroken):
                        await near.send_all(bytes(MUCH))

                nursery.start_soon(send)
            await pair.near.lost.wait()
            await pair.far.lost.wait()
        assert 10 <= trio.current_time() - began_at_s <= 20
        assert "silent" in pair.near.cause
        for stream in (near, far):
            with pytest.raises(StreamBroken):
                await stream.receive_some()
            await stream.wait_broken()


async def test_an_idle_connection_lasts(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        await trio.sleep(3_600)
        await check_alive(*await pair.open())


async def test_what_had_come_before_the_loss_can_be_read() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        ended_near, ended_far = await pair.open()
        await near.send_all(b"half")
        await ended_near.send_all(b"whole")
        await ended_near.send_eof()
        await wait_all_tasks_blocked()
        pair.near.abort("test")
        await pair.far.lost.wait()
        assert await far.receive_exactly(4) == b"half"
        with pytest.raises(StreamBroken):
            await far.receive_some()
        assert await ended_far.receive_exactly(5) == b"whole"
        assert await ended_far.receive_some() == b""
        with pytest.raises(StreamBroken):
            await ended_far.send_all(b"x")
        with pytest.raises(StreamBroken):
            pair.far.open_stream()


async def test_an_abort_breaks_all_streams_at_once() -> None:
    async with open_pair() as pair:
        streams = [await pair.open() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for near, _ in streams:
                nursery.start_soon(near.wait_broken)
            pair.near.abort("test")
        await pair.near.lost.wait()
        assert not pair.near.usable
        assert pair.near.cause == "test"


# Farewell


async def test_a_farewell_loses_nothing_that_was_queued() -> None:
    async with open_pair() as pair:
        streams = [await pair.open() for _ in range(20)]
        for _, far in streams:
            await far.send_all(pattern(5, 200_000))
            await far.send_eof()
        await pair.far.aclose()
        await pair.near.lost.wait()
        for near, _ in streams:
            assert await near.receive_exactly(200_000) == pattern(5, 200_000)
            assert await near.receive_some() == b""


async def test_a_farewell_waits_for_the_window_but_not_for_ever(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        stuck_near, stuck_far = await pair.open()
        await far.send_all(bytes(RECEIVE_WINDOW + 1_000))
        await stuck_far.send_all(bytes(RECEIVE_WINDOW + 1_000))
        await wait_all_tasks_blocked()
        began_at_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.far.aclose)
            # One of two readers takes what there is, so that the rest can come.
            assert await near.receive_exactly(RECEIVE_WINDOW + 1_000)
        assert trio.current_time() - began_at_s == pytest.approx(FAREWELL_S)
        assert pair.far.lost.is_set()
        assert await stuck_near.receive_exactly(RECEIVE_WINDOW)
        with pytest.raises(StreamBroken):
            await stuck_near.receive_some()


async def test_a_farewell_to_a_black_hole_is_short(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        pair.black_hole()
        began_at_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.near.aclose)
            nursery.start_soon(pair.near.say_farewell)
        assert trio.current_time() - began_at_s == pytest.approx(FAREWELL_S)
        await pair.near.aclose()
        assert trio.current_time() - began_at_s == pytest.approx(FAREWELL_S)


async def test_no_new_streams_while_leaving() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        # What stays unread keeps the far side from hanging up.
        await far.send_all(bytes(RECEIVE_WINDOW + 1_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.far.aclose)
            late = pair.near.open_stream()
            pair.near.wake_writer()
            await wait_all_tasks_blocked()
            for muxer in (pair.near, pair.far):
                assert not muxer.usable
                with pytest.raises(StreamBroken):
                    muxer.open_stream()
            with pytest.raises(StreamBroken):
                await late.receive_some()
            assert await near.receive_exactly(RECEIVE_WINDOW + 1_000)


# Hostile peers


@pytest.mark.parametrize(
    "hostile", [wire((9, 0, 0, 0)), wire((WINDOW_UPDATE, SYN, 2, 0)), b"\xff" * 30]
)
async def test_a_violation_ends_the_connection_and_is_told(hostile: bytes) -> None:
    eve, noise, _, _ = noise_pair()
    muxer = Muxer(noise, dialer=False, on_stream=lambda stream: None)
    await eve.send([hostile])
    await muxer.run()
    assert muxer.lost.is_set()
    assert "violation" in muxer.cause


async def test_records_that_were_tampered_with_end_the_connection() -> None:
    _, noise, eve_stream, _ = noise_pair()
    muxer = Muxer(noise, dialer=False, on_stream=lambda stream: None)
    await eve_stream.send_all(b"\0\x20" + bytes(32))
    await muxer.run()
    assert "not sealed" in muxer.cause


async def test_a_flood_of_pings_that_nobody_reads_is_cut_off() -> None:
    eve, noise, _, stream = noise_pair()
    muxer = Muxer(noise, dialer=False, on_stream=lambda stream: None)

    async def never_read() -> None:
        await trio.sleep_forever()

    stream.send_stream.send_all_hook = never_read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.run)
        for _ in range(2):
            assert not muxer.lost.is_set()
            await eve.send([wire((PING, SYN, 0, 1)) * 5_000])
            await wait_all_tasks_blocked()
        assert muxer.lost.is_set()
    assert "does not read" in muxer.cause


async def test_streams_reset_as_soon_as_opened_leave_nothing_behind() -> None:
    eve, noise, _, _ = noise_pair()
    welcome: list[MuxedStream] = []
    muxer = Muxer(noise, dialer=False, on_stream=welcome.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.run)
        for start in range(1, 20_001, 2_000):
            ids = range(start, start + 2_000, 2)
            frames = [
                frame
                for stream_id in ids
                for frame in ((WINDOW_UPDATE, SYN, stream_id, 0), (WINDOW_UPDATE, 8, stream_id, 0))
            ]
            await eve.send([wire(*frames)])
            await wait_all_tasks_blocked()
        assert not muxer.lost.is_set()
        assert welcome == []
        assert muxer._streams == {}
        nursery.cancel_scope.cancel()


async def test_nothing_refers_to_a_connection_that_is_gone() -> None:
    async with open_pair() as pair:
        gone = [weakref.ref(pair.near.session), weakref.ref(pair.far.session)]
        for _ in range(5):
            near, far = await pair.open()
            await check_alive(near, far)
            gone += [weakref.ref(near), weakref.ref(far)]
        del near, far
        pair.near.abort("test")
        await pair.far.lost.wait()
    del pair
    gc.collect()
    assert [ref() for ref in gone if ref() is not None] == []
