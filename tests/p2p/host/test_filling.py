"""Buffers that are filled as bytes come, whether these are copied or opened into them."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import StreamBroken
from p2p.host.yamux import YamuxSession
from p2p.host.yamux_frame import DATA, FIN, WINDOW_UPDATE, FrameReader, Received
from p2p.host.yamux_window import RECEIVE_WINDOW
from tests.p2p.host.filling import Filling
from tests.p2p.host.muxers import open_pair
from tests.p2p.host.wires import listener, opened, outgoing, pattern, wire

SIZES = st.lists(st.integers(1, 40_000), min_size=1, max_size=12)


def bring(session: YamuxSession, data: bytes, received: Received) -> None:
    """Give bytes of the peer to a session as a muxer does: where it wants them, or as they are."""
    place = session.place(len(data))
    if place is None:
        session.on_bytes(data, 1.0, received)
    else:
        place[:] = data
        session.on_placed(len(data), 1.0, received)


@settings(deadline=None)
@given(frames=SIZES, records=SIZES, wanted=SIZES, ready=st.booleans())
def test_whatever_the_cuts_every_byte_is_in_its_place(
    frames: list[int], records: list[int], wanted: list[int], ready: bool
) -> None:
    """Frames, records and buffers are cut at other places; `ready`: the buffer is there first."""
    session = listener()
    stream_id = opened(session)
    text = pattern(0, sum(frames))
    sent = b""
    position = 0
    for size in frames:
        sent += wire((DATA, 0, stream_id, size), text[position : position + size])
        position += size
    fillings = [Filling(memoryview(bytearray(size))) for size in wanted]
    waiting = iter(fillings)
    current = next(waiting)
    received = Received()
    if ready:
        session.fill(stream_id, current, 0.0)
    rng = random.Random(len(records))
    while sent:
        size = rng.choice(records)
        bring(session, sent[:size], received)
        sent = sent[size:]
        while not current.left_bytes and (following := next(waiting, None)):
            current = following
            session.fill(stream_id, current, 0.0)
    session.fill(stream_id, current, 2.0)
    for following in waiting:
        session.fill(stream_id, following, 2.0)
    session.stop_filling(stream_id)
    got = b"".join(bytes(one.buffer[: one.size_bytes]) for one in fillings)
    assert got == text[: sum(wanted)]
    assert session.unread_bytes(stream_id) == len(text) - len(got)
    assert session._unread.used == len(text) - len(got)


def test_what_is_filled_is_credited_and_the_end_is_heard() -> None:
    session = listener()
    stream_id = opened(session)
    filling = Filling(memoryview(bytearray(RECEIVE_WINDOW)))
    session.fill(stream_id, filling, 0.0)
    received = Received()
    bring(session, wire((DATA, FIN, stream_id, RECEIVE_WINDOW)), received)
    bring(session, bytes(600_000), received)
    assert outgoing(session), "half of the window was taken, so the peer may send again"
    assert not received.touched
    bring(session, bytes(RECEIVE_WINDOW - 600_000), received)
    assert list(received.touched) == [stream_id]
    assert filling.left_bytes == 0
    assert session.remote_finished(stream_id)


def test_a_peer_may_send_a_large_message_whole_once_its_reader_has_the_room() -> None:
    session = listener()
    stream_id = opened(session)
    outgoing(session)
    message_bytes = 2 * RECEIVE_WINDOW
    session.fill(stream_id, Filling(memoryview(bytearray(message_bytes))), 0.0)
    [(kind, _, granted_to, more, _)] = FrameReader().read(b"".join(session.next_frames(1)))
    assert (kind, granted_to) == (WINDOW_UPDATE, stream_id)
    assert RECEIVE_WINDOW + more >= message_bytes
    received = Received()
    bring(session, wire((DATA, FIN, stream_id, message_bytes)), received)
    bring(session, bytes(message_bytes), received)
    assert list(received.touched) == [stream_id]


def test_nothing_goes_into_the_buffer_of_a_stream_that_was_given_up() -> None:
    session = listener()
    stream_id = opened(session)
    filling = Filling(memoryview(bytearray(100)))
    session.fill(stream_id, filling, 0.0)
    session.abandon(stream_id)
    session.on_bytes(wire((DATA, 0, stream_id, 50), bytes(50)))
    assert filling.size_bytes == 0


async def test_large_payloads_come_straight_and_a_stream_that_ends_early_says_so() -> None:
    text = pattern(0, 300_000)
    async with open_pair() as pair:
        near, far = await pair.open()
        filling = Filling(memoryview(bytearray(len(text))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.fill, filling)
            await near.send_all(text[:200_000])
            with pytest.raises(trio.BusyResourceError):
                await trio.testing.wait_all_tasks_blocked()
                await far.fill(Filling(memoryview(bytearray(1))))
            await near.send_all(text[200_000:])
        assert bytes(filling.buffer) == text
        await near.send_all(text[:10])
        await near.send_eof()
        half = Filling(memoryview(bytearray(20)))
        with pytest.raises(StreamBroken, match="10 bytes early"):
            await far.fill(half)
        assert bytes(half.buffer[:10]) == text[:10]
