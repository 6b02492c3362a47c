"""Noise sessions: packing into records, splits at any byte, and records that were tampered with."""

import random

import pytest
import trio
from trio.testing import memory_stream_pair

from p2p import Identity, StreamBroken
from p2p.host.handshake import SessionKeys
from p2p.host.noise import NoiseSession, is_aes_faster
from p2p.host.records import NOISE, TAG_BYTES
from tests.p2p.host.receiving import next_plains

PLAIN_MAX = NOISE.plain_bytes_max


HASH = b"h" * 32


def keys() -> tuple[SessionKeys, SessionKeys]:
    """The two sides' keys."""
    peer_id = Identity.generate().peer_id
    one, other = b"1" * 32, b"2" * 32
    return (
        SessionKeys(peer_id, one, other, HASH, is_dialer=True),
        SessionKeys(peer_id, other, one, HASH, is_dialer=False),
    )


def session_pair() -> tuple[NoiseSession, NoiseSession]:
    left, right = memory_stream_pair()
    left_keys, right_keys = keys()
    return NoiseSession(left, left_keys), NoiseSession(right, right_keys)


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
        while pieces := await next_plains(far):
            received += b"".join(pieces)
    assert received == b"".join(sent)


async def test_what_was_pushed_back_comes_first() -> None:
    near, far = session_pair()
    await near.send([b"later"])
    far.push_back(b"earlier")
    assert await next_plains(far) == [b"earlier"]
    assert await next_plains(far) == [b"later"]


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
        await next_plains(session)


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
                await next_plains(far)


async def test_a_stream_that_ends_or_breaks() -> None:
    near, far = session_pair()
    await near.send([b"last"])
    await near.send_eof()
    assert await next_plains(far) == [b"last"]
    assert await next_plains(far) == []
    await far.aclose()
    with pytest.raises(StreamBroken):
        await far.send([b"x"])
    with pytest.raises(StreamBroken):
        await next_plains(far)


async def test_nonces_run_out_rather_than_repeat() -> None:
    near, _ = session_pair()
    near._sealer._key.records = 2**64 - 1
    with pytest.raises(StreamBroken, match="nonces"):
        await near.send([b"x"])


def test_keys_are_not_shown() -> None:
    assert "1111" not in repr(keys()[0])


async def test_both_sides_switch_to_aes_and_bytes_go_on() -> None:
    near, far = session_pair()
    await near.send([b"under noise"])
    assert await far.receive_one() == b"under noise"
    await far.send([b"agreed"])
    # The listener may go on at once: its first AES record comes with its last one of Noise.
    far.switch_to_aes()
    await far.send([b"under aes"])
    assert await near.receive_one() == b"agreed"
    near.switch_to_aes()
    assert near.layer.protocol == far.layer.protocol == "/manyhands/aes-gcm/1"
    assert await next_plains(near) == [b"under aes"]
    sent = random.Random(3).randbytes(1_000_000)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send, [b"a", memoryview(sent), b"z"])
        while len(received) < len(sent) + 2:
            received += b"".join(await next_plains(far))
    assert received == b"a" + sent + b"z"


async def test_a_side_that_did_not_switch_is_found_out() -> None:
    near, far = session_pair()
    far.switch_to_aes()
    await near.send([b"still noise"])
    with pytest.raises(StreamBroken):
        await next_plains(far)


async def test_aes_keys_hang_on_the_handshake() -> None:
    near_stream, far_stream = memory_stream_pair()
    near_keys, far_keys = keys()
    other = SessionKeys(
        far_keys.peer_id, far_keys.send_key, far_keys.receive_key, b"x" * 32, is_dialer=False
    )
    near, far = NoiseSession(near_stream, near_keys), NoiseSession(far_stream, other)
    near.switch_to_aes()
    far.switch_to_aes()
    await near.send([b"hello"])
    with pytest.raises(StreamBroken, match="not sealed"):
        await next_plains(far)


async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = session_pair()
    with trio.move_on_after(0) as scope:
        await next_plains(far)
    assert scope.cancelled_caught
    await near.send([b"hello"])
    assert await next_plains(far) == [b"hello"]


def test_which_cipher_is_faster_is_measured_once() -> None:
    assert is_aes_faster() is is_aes_faster()


async def test_the_two_ports_of_a_peer_that_fell_silent_can_be_connected_anew() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        there = listener.socket.getsockname()
        near_stream = await trio.open_tcp_stream(*there)
        here = near_stream.socket.getsockname()
        near = NoiseSession(near_stream, keys()[0])
        # As a peer does that is not there any more, it neither reads nor hangs up.
        async with await listener.accept():
            near.leave_nothing_behind()
            await near.aclose()
            with trio.socket.socket() as again:
                again.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                await again.bind(here)
                await again.connect(there)


async def test_a_socket_that_was_closed_under_a_session_is_a_broken_stream() -> None:
    """Also where the last read took all that was there, so that the next one waits first."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    await listener.aclose()
    one, other = (NoiseSession(*ends) for ends in zip((near, far), keys(), strict=True))
    await one.send([b"once"])
    assert await other.receive_one() == b"once"
    await far.aclose()
    with pytest.raises(StreamBroken):
        await other.receive_one()
    await one.aclose()
    await other.aclose()


async def test_whether_the_socket_made_it_wait_is_known() -> None:
    """What a busy machine takes for other things says nothing of the path."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    await listener.aclose()
    session = NoiseSession(near, keys()[0])
    assert await session.send_sealed(session.seal([bytes(1_000)])) is None
    large = session.seal([bytes(20_000_000)])
    size_bytes = 1_000 + 2 + TAG_BYTES + len(large)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read_all() -> None:
            left_bytes = size_bytes
            while left_bytes:
                left_bytes -= len(await far.receive_some(left_bytes))

        assert (await session.send_sealed(large) or 0.0) > 0
    await far.aclose()
    await session.aclose()
