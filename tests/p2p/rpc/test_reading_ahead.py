"""Frames whose payloads come into buffers of the caller's, also while it is busy with others."""

import random
from collections.abc import Iterable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import MessageInvalid, StreamBroken
from p2p.host.yamux_frame import DATA, Received
from p2p.rpc import schema
from p2p.rpc.frames import Frame, FrameIntake, FrameReader
from tests.p2p.host.muxers import open_pair
from tests.p2p.host.wires import listener, opened, pattern, wire

LARGE_BYTES = 100_000


def framed(number: int, payload: bytes) -> bytes:
    """A frame whose body is its number."""
    return schema.frame(schema.MESSAGE, b"%d" % number, len(payload)) + payload


class Buffers:
    """Makes buffers, and remembers for which bodies."""

    def __init__(self, refused: Iterable[bytes] = ()) -> None:
        self.asked: list[bytes] = []
        self._refused = set(refused)

    def __call__(self, body: bytes, size_bytes: int) -> tuple[memoryview, bytes]:
        self.asked.append(body)
        if body in self._refused:
            raise LookupError(body)
        return memoryview(bytearray(size_bytes)), body


async def take(reader: FrameReader, buffers: Buffers, payload_bytes_max: int) -> Frame | None:
    return await reader.next_into_untrusted(100, payload_bytes_max, buffers, ahead=True)


async def test_the_next_frame_comes_in_while_the_caller_is_busy_and_a_third_waits() -> None:
    payloads = [pattern(number, LARGE_BYTES) for number in range(4)]
    async with open_pair() as pair:
        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers()  # type: ignore[arg-type]
        sent = [framed(number, payload) for number, payload in enumerate(payloads)]
        await near.send_all(sent[0])
        first = await take(reader, buffers, LARGE_BYTES)
        await near.send_all(b"".join(sent[1:]))
        await trio.testing.wait_all_tasks_blocked()
        assert buffers.asked == [b"0", b"1", b"2"]
        rest = [await take(reader, buffers, LARGE_BYTES) for _ in range(3)]
        for number, frame in enumerate([first, *rest]):
            assert frame is not None
            assert bytes(frame.payload) == payloads[number]
            assert frame.body == frame.read == b"%d" % number
        await near.send_eof()
        assert await take(reader, buffers, LARGE_BYTES) is None
        assert await take(reader, buffers, LARGE_BYTES) is None


async def test_who_does_not_read_ahead_is_asked_for_one_buffer_at_a_time() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers()  # type: ignore[arg-type]
        await near.send_all(framed(0, b"a") + framed(1, b"b"))
        for number in range(2):
            frame = await reader.next_into_untrusted(100, 1, buffers)
            assert frame is not None
            await trio.testing.wait_all_tasks_blocked()
            assert buffers.asked == [b"%d" % earlier for earlier in range(number + 1)]


async def test_what_is_wrong_with_a_frame_is_said_after_those_before_it() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers([b"1"])  # type: ignore[arg-type]
        await near.send_all(framed(0, b"a") + framed(1, b"b") + framed(2, b"c"))
        await trio.testing.wait_all_tasks_blocked()
        frame = await take(reader, buffers, 1)
        assert frame is not None
        assert frame.body == b"0"
        for _ in range(2):
            with pytest.raises(LookupError):
                await take(reader, buffers, 1)
        assert buffers.asked == [b"0", b"1"]

        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers()  # type: ignore[arg-type]
        await near.send_all(framed(0, b"") + framed(1, b"bb"))
        assert await take(reader, buffers, 1) is not None
        with pytest.raises(MessageInvalid, match="over the limits"):
            await take(reader, buffers, 1)
        assert not buffers.asked


async def test_a_cancelled_read_loses_nothing_and_an_early_end_is_one() -> None:
    payload = pattern(0, LARGE_BYTES)
    sent = framed(7, payload)
    async with open_pair() as pair:
        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers()  # type: ignore[arg-type]
        for start in range(0, len(sent), 9_000):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take, reader, buffers, LARGE_BYTES)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            await near.send_all(sent[start : start + 9_000])
        frame = await take(reader, buffers, LARGE_BYTES)
        assert frame is not None
        assert bytes(frame.payload) == payload
        assert buffers.asked == [b"7"]
        await near.send_all(sent[:50])
        await near.send_eof()
        with pytest.raises(StreamBroken, match="within a frame"):
            await take(reader, buffers, LARGE_BYTES)


async def test_frames_that_came_whole_are_good_though_the_stream_breaks() -> None:
    async with open_pair() as pair:
        near, far = await pair.open()
        reader, buffers = FrameReader(far), Buffers()  # type: ignore[arg-type]
        await near.send_all(framed(0, b"a") + framed(1, b"b") + framed(2, b"c")[:-1])
        assert await take(reader, buffers, 1) is not None
        await trio.testing.wait_all_tasks_blocked()
        near.reset()
        await far.wait_broken()
        frame = await take(reader, buffers, 1)
        assert frame is not None
        assert bytes(frame.payload) == b"b"
        with pytest.raises(StreamBroken):
            await take(reader, buffers, 1)


@settings(deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 40_000), st.sampled_from([0, 1, 50, 20_000, 60_000])), max_size=6
    ),
    seed=st.integers(0, 2**16),
    ahead=st.booleans(),
)
def test_whatever_the_cuts_every_frame_is_whole(
    sizes: list[tuple[int, int]], seed: int, ahead: bool
) -> None:
    """Bytes come in records of other sizes, and the user takes frames when it likes."""
    rng = random.Random(seed)
    frames = [(pattern(1, body), pattern(2, payload)) for body, payload in sizes]
    text = b"".join(schema.frame(schema.MESSAGE, b, len(p)) + p for b, p in frames)
    session = listener()
    stream_id = opened(session)
    sent = wire((DATA, 0, stream_id, len(text)), text)
    intake, buffers = FrameIntake(0.0), Buffers()
    intake.expect(40_000, 60_000, buffers, ahead=ahead)
    got: list[Frame] = []

    def take_all() -> None:
        session.fill(stream_id, intake, 0.0)
        while intake.ready:
            frame = intake.take()
            assert frame is not None
            got.append(frame)
            session.fill(stream_id, intake, 0.0)

    while sent:
        size = rng.choice((1, 9, 500, 16_384, 65_536))
        piece, sent = sent[:size], sent[size:]
        place = session.place(len(piece))
        if place is None:
            session.on_bytes(piece, 1.0)
        else:
            place[:] = piece
            session.on_placed(len(piece), 1.0, Received())
        if rng.random() < 0.3:
            take_all()
    take_all()
    assert [(one.body, bytes(one.payload)) for one in got] == frames
    assert session.unread_bytes(stream_id) == 0
