"""The yamux session: what honest peers see, and what hostile frames lead to."""

from p2p.host.yamux import FRAME_DATA_MAX, YamuxSession
from p2p.host.yamux_frame import ACK, FIN, PING, RST, SYN
from p2p.host.yamux_stream import INITIAL_WINDOW
from p2p.host.yamux_window import RECEIVE_WINDOW, WIDE_STREAMS_MAX
from tests.p2p.host.wires import exchange, frames_of, listener, outgoing, pair, pattern, wire

# Order


def test_bytes_cross_with_the_recorded_frames() -> None:
    near = YamuxSession(dialer=True)
    stream_id = near.open()
    near.send(stream_id, b"hi")
    near.finish(stream_id)
    assert outgoing(near).hex() == (
        "0001000100000001000c0000"  # SYN, and the window raised by 786 432
        "0000000000000001000000026869"
        "000000040000000100000000"
    )


def test_both_ways_at_once_and_the_state_is_gone() -> None:
    near, far, stream_id = pair()
    near.send(stream_id, b"question")
    near.finish(stream_id)
    exchange(near, far)
    assert far.take(stream_id, 100) == b"question"
    assert far.remote_finished(stream_id)
    far.send(stream_id, b"answer")
    far.finish(stream_id)
    exchange(near, far)
    assert not far.is_open(stream_id)
    assert near.take(stream_id, 3) == b"ans"
    assert near.take(stream_id, 100) == b"wer"
    assert not near.is_open(stream_id)


def test_data_waits_for_the_window_and_goes_on_when_taken() -> None:
    near, far, stream_id = pair()
    size = RECEIVE_WINDOW + 100_000
    for start in range(0, size, 50_000):
        near.send(stream_id, pattern(start, min(50_000, size - start)))
    exchange(near, far)
    assert far.unread_bytes(stream_id) == RECEIVE_WINDOW
    assert near.unsent_bytes == 100_000
    position = 0
    while position < size:
        part = far.take(stream_id, 300_000)
        assert part == b"".join(
            pattern(start, min(60_000, position + len(part) - start))
            for start in range(position, position + len(part), 60_000)
        )
        position += len(part)
        exchange(near, far)
    assert near.unsent_bytes == 0


def test_frames_are_small_and_streams_take_turns() -> None:
    near, far, first = pair()
    second = near.open()
    exchange(near, far)
    near.send(first, bytes(200_000))
    near.send(second, b"small")
    kinds = [(stream_id, length) for _, _, stream_id, length in frames_of(outgoing(near))]
    assert kinds[:2] == [(first, FRAME_DATA_MAX), (second, 5)]
    assert all(length <= FRAME_DATA_MAX for _, length in kinds)


def test_only_so_many_streams_get_a_wide_window() -> None:
    near, far = YamuxSession(dialer=True), YamuxSession(dialer=False)
    ids = [near.open() for _ in range(WIDE_STREAMS_MAX + 1)]
    exchange(near, far)
    for stream_id in ids:
        near.send(stream_id, bytes(2 * RECEIVE_WINDOW))
    exchange(near, far)
    unread = [far.unread_bytes(stream_id) for stream_id in ids]
    assert unread == [RECEIVE_WINDOW] * WIDE_STREAMS_MAX + [INITIAL_WINDOW]
    # When a wide one has gone, the place is taken by the next that needs room.
    far.reset(ids[0])
    far.take(ids[-1], RECEIVE_WINDOW)
    exchange(near, far)
    assert far.unread_bytes(ids[-1]) == RECEIVE_WINDOW


def test_as_many_unread_streams_as_may_be_open_break_nothing() -> None:
    near, far = YamuxSession(dialer=True), YamuxSession(dialer=False)
    ids = [near.open() for _ in range(192)]
    exchange(near, far)
    for stream_id in ids:
        near.send(stream_id, bytes(2 * RECEIVE_WINDOW))
    exchange(near, far)
    assert all(far.is_open(stream_id) for stream_id in ids)


def test_pings_are_answered() -> None:
    session = listener()
    session.on_bytes(wire((PING, SYN, 0, 7)))
    assert frames_of(outgoing(session)) == [(PING, ACK, 0, 7)]
    session.on_bytes(wire((PING, ACK, 0, 7)))
    assert outgoing(session) == b""


def test_going_away_is_heard_and_said() -> None:
    near, far, _ = pair()
    near.go_away()
    exchange(near, far)
    assert far.remote_gone_away


def test_stream_ids_run_out_at_last() -> None:
    near = YamuxSession(dialer=True)
    near._next_id = 2**32 - 1
    assert near.open() == 2**32 - 1
    assert near.exhausted


# Closing


def test_what_is_queued_goes_out_after_our_side_has_closed() -> None:
    near, far, stream_id = pair()
    far.send(stream_id, b"last words")
    far.abandon(stream_id)
    exchange(near, far)
    assert near.take(stream_id, 100) == b"last words"
    assert near.remote_finished(stream_id)
    near.finish(stream_id)
    exchange(near, far)
    assert not far.is_open(stream_id)
    assert not near.is_open(stream_id)


def test_last_words_survive_that_the_rest_of_the_request_is_stopped() -> None:
    near, far, stream_id = pair()
    near.send(stream_id, bytes(RECEIVE_WINDOW // 2))
    exchange(near, far)
    # More than is swallowed in silence is unread already, when the answer is given.
    far.send(stream_id, b"no, thanks")
    far.abandon(stream_id)
    assert not far.on_bytes(b"").reset
    data = outgoing(far)
    assert [flags for _, flags, _, _ in frames_of(data)] == [0, FIN, RST]
    received = near.on_bytes(data)
    assert received.reset == [stream_id]
    assert near.finished(stream_id)
    assert near.take(stream_id, 100) == b"no, thanks"
    assert not near.is_open(stream_id)
    assert far._unread.used == near._unread.used == 0


def test_a_reset_of_what_both_sides_had_closed_leaves_nothing_behind() -> None:
    near, far, stream_id = pair()
    near.finish(stream_id)
    exchange(near, far)
    # More than the window lets out, so that the end cannot be said yet.
    far.send(stream_id, bytes(2 * RECEIVE_WINDOW))
    far.abandon(stream_id)
    exchange(near, far)
    assert far.is_open(stream_id)
    near.reset(stream_id)
    exchange(near, far)
    assert not far.is_open(stream_id)
    assert far.unsent_bytes == 0


def test_a_stopped_stream_is_forgotten_without_a_word() -> None:
    near, far, stream_id = pair()
    far.send(stream_id, b"no, thanks")
    far.finish(stream_id)
    exchange(near, far)
    far.reset(stream_id)
    exchange(near, far)
    assert near.is_open(stream_id)
    near.reset(stream_id)
    assert outgoing(near) == b""
    assert near._unread.used == 0


def test_who_sends_on_to_a_closed_stream_is_reset() -> None:
    near, far, stream_id = pair()
    far.abandon(stream_id)
    exchange(near, far)
    near.send(stream_id, bytes(100_000))
    assert near.is_open(stream_id)
    exchange(near, far)
    assert near.finished(stream_id)
    assert near.unsent_bytes == 0
    assert not far.is_open(stream_id)


def test_a_stream_that_the_peer_never_closes_is_reset_at_last() -> None:
    near, far, stream_id = pair()
    far.abandon(stream_id)
    exchange(near, far)
    for _ in range(6):
        far.on_tick()
    assert far.is_open(stream_id)
    far.on_tick()
    assert not far.is_open(stream_id)
    exchange(near, far)
    assert near.finished(stream_id)


def test_abandoning_what_is_unread_counts_it_once() -> None:
    near, far, stream_id = pair()
    other = near.open()
    near.send(stream_id, bytes(500_000))
    near.send(other, bytes(1_000))
    exchange(near, far)
    far.abandon(stream_id)
    exchange(near, far)
    assert far._unread.used == 1_000
