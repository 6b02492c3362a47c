"""Muxers that are watched closely, and sends of buffers that are not copied."""

from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import StreamBroken
from p2p.host.yamux_window import RECEIVE_WINDOW
from tests.p2p.host.filling import Filling
from tests.p2p.host.muxers import check_alive, open_pair
from tests.p2p.host.wires import pattern


async def test_a_watched_peer_is_missed_sooner(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        near, _ = await pair.open()
        with pair.near.watched(), pair.near.watched():
            # Answers keep it alive, however long it lasts.
            await trio.sleep(60)
            assert not near.broken
            pair.black_hole()
            since_s = trio.current_time()
            await pair.near.lost.wait()
        assert 5 <= trio.current_time() - since_s <= 6.1
        assert "silent" in pair.near.cause


async def test_a_peer_that_is_no_longer_watched_has_its_time_again(
    autojump_clock: MockClock,
) -> None:
    async with open_pair() as pair:
        await pair.open()
        with pair.near.watched():
            pair.black_hole()
            silent_since_s = trio.current_time()
            await trio.sleep(4)
        await pair.near.lost.wait()
        assert 15 <= trio.current_time() - silent_since_s <= 20.1


async def test_watching_again_and_again_puts_off_nothing(autojump_clock: MockClock) -> None:
    """A round that fails by silence is tried again: the connection beneath is still noticed."""
    async with open_pair() as pair, trio.open_nursery() as nursery:
        await pair.open()

        @nursery.start_soon
        async def try_rounds() -> None:
            while True:
                with pair.near.watched():
                    await trio.sleep(2.5)
                await trio.sleep(0.1)

        await trio.sleep(30)
        assert not pair.near.lost.is_set()
        pair.black_hole()
        silent_since_s = trio.current_time()
        await pair.near.lost.wait()
        assert 5 <= trio.current_time() - silent_since_s <= 11.1
        nursery.cancel_scope.cancel()


async def test_a_large_buffer_is_sent_as_it_is_and_can_be_used_again_afterwards() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        buffer = bytearray(pattern(0, 300_000))
        received = bytearray()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                while len(received) < 3 * len(buffer):
                    received.extend(await far.receive_some())

            for turn in range(3):
                buffer[:] = pattern(turn * len(buffer), len(buffer))
                await near.send_all(memoryview(buffer))
                # Nothing of ours is kept, or this would fail.
                buffer.append(0)
                buffer.pop()
        assert received == pattern(0, 300_000) + pattern(300_000, 300_000) + pattern(
            600_000, 300_000
        )


class Turns(trio.abc.Instrument):
    """Counts how often tasks run, by their names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts[task.name] += 1


async def test_nobody_is_woken_before_all_is_there_that_it_waits_for() -> None:
    """A large message takes many windows and batches, which are no news for those at its ends."""
    large = bytearray(pattern(0, 300_000) * 7)
    turns = Turns()
    async with open_pair() as pair, trio.open_nursery() as nursery:
        near, far = await pair.open()
        trio.lowlevel.add_instrument(turns)
        filling = Filling(memoryview(bytearray(len(large))))
        nursery.start_soon(far.fill, filling, name="reader")
        nursery.start_soon(near.receive_some, name="waits for an answer")
        await wait_all_tasks_blocked()
        nursery.start_soon(near.send_all, large, name="sender")
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(turns)
        assert filling.buffer == large
        # Each begins, and is woken once, or not at all.
        assert (turns.counts["sender"], turns.counts["reader"]) == (2, 2)
        assert turns.counts["waits for an answer"] == 1
        nursery.cancel_scope.cancel()


async def test_a_large_buffer_that_cannot_be_sent_in_time_is_let_go() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        buffer = bytearray(4 * RECEIVE_WINDOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, buffer)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        buffer.append(0)
        with pytest.raises(StreamBroken):
            await far.receive_exactly(4 * RECEIVE_WINDOW)
        await check_alive(*await pair.open())


async def test_the_round_trip_is_measured_from_the_beginning() -> None:
    async with open_pair() as pair:
        await pair.open()
        await wait_all_tasks_blocked()
        assert pair.near.session.windows.rtt_s is not None
        assert pair.far.session.windows.rtt_s is not None
