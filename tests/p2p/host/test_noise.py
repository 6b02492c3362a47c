"""Noise sessions: packing into records, splits at any byte, and records that were tampered with."""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from p2p import Identity, StreamBroken
from p2p.host.handshake import SessionKeys
from p2p.host.noise import RECORD_BYTES_MAX, NoiseSession, _packed

PLAIN_MAX = RECORD_BYTES_MAX - 16


def keys() -> tuple[SessionKeys, SessionKeys]:
    """The two sides' keys."""
    peer_id = Identity.generate().peer_id
    one, other = b"1" * 32, b"2" * 32
    return SessionKeys(peer_id, one, other), SessionKeys(peer_id, other, one)


def session_pair() -> tuple[NoiseSession, NoiseSession]:
    left, right = memory_stream_pair()
    left_keys, right_keys = keys()
    return NoiseSession(left, left_keys), NoiseSession(right, right_keys)


@given(st.lists(st.integers(0, 3 * PLAIN_MAX), max_size=12))
def test_packing_keeps_order_and_fits_records(sizes: list[int]) -> None:
    rng = random.Random(0)
    pieces = [rng.randbytes(size) for size in sizes]
    packed = _packed([memoryview(piece) for piece in pieces])
    assert b"".join(packed) == b"".join(pieces)
    assert all(len(plain) <= PLAIN_MAX for plain in packed)
    assert len(packed) <= 2 * sum(sizes) / PLAIN_MAX + 2


async def test_bytes_cross_however_they_are_split() -> None:
    near_stream, far_stream = memory_stream_pair()
    near_keys, far_keys = keys()
    near, far = NoiseSession(near_stream, near_keys), NoiseSession(far_stream, far_keys)
    sent = [random.Random(1).randbytes(size) for size in (1, 0, 100_000, PLAIN_MAX, 7)]
    await near.send(sent)
    # The bytes of the wire, handed on in odd pieces.
    wire = bytes(await far_stream.receive_some(1 << 20))
    received = b""
    position = 0
    rng = random.Random(2)
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            nonlocal position
            while position < len(wire):
                size = rng.choice((1, 2, 3, 40_000))
                await near_stream.send_all(wire[position : position + size])
                position += size
            await near_stream.send_eof()

        nursery.start_soon(trickle)
        while pieces := await far.receive():
            received += b"".join(pieces)
    assert received == b"".join(sent)


async def test_what_was_pushed_back_comes_first() -> None:
    near, far = session_pair()
    await near.send([b"later"])
    far.push_back(b"earlier")
    assert await far.receive() == [b"earlier"]
    assert await far.receive() == [b"later"]


@pytest.mark.parametrize(
    "tampered",
    [
        b"\0\0",
        b"\0\1x",
        b"\0\x0f" + bytes(15),
        b"\0\x10" + bytes(16),
        b"\xff\xff" + bytes(65_535),
    ],
)
async def test_records_that_the_peer_did_not_seal(tampered: bytes) -> None:
    stream, far_stream = memory_stream_pair()
    session = NoiseSession(far_stream, keys()[0])
    await stream.send_all(tampered)
    with pytest.raises(StreamBroken, match="not sealed"):
        await session.receive()


async def test_records_cannot_be_replayed_or_left_out() -> None:
    for order in ([0, 0], [1]):
        near_stream, far_stream = memory_stream_pair()
        near_keys, far_keys = keys()
        near, far = NoiseSession(near_stream, near_keys), NoiseSession(far_stream, far_keys)
        records = []
        for text in (b"first", b"second"):
            await near.send([text])
            records.append(bytes(await far_stream.receive_some(1 << 20)))
        for index in order:
            await near_stream.send_all(records[index])
        with pytest.raises(StreamBroken, match="not sealed"):
            while True:
                await far.receive()


async def test_a_stream_that_ends_or_breaks() -> None:
    near, far = session_pair()
    await near.send([b"last"])
    await near.send_eof()
    assert await far.receive() == [b"last"]
    assert await far.receive() == []
    await far.aclose()
    with pytest.raises(StreamBroken):
        await far.send([b"x"])
    with pytest.raises(StreamBroken):
        await far.receive()


async def test_nonces_run_out_rather_than_repeat() -> None:
    near, _ = session_pair()
    near._sent_records = 2**64 - 1
    with pytest.raises(StreamBroken, match="nonces"):
        await near.send([b"x"])


def test_keys_are_not_shown() -> None:
    assert "1111" not in repr(keys()[0])
