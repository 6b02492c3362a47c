"""Frames against the rules, floods and noise: what they cost the yamux session, and what not."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.budget import Budget
from p2p.host.yamux import INBOUND_STREAMS_MAX, YamuxSession
from p2p.host.yamux_control import ANSWERS_MAX
from p2p.host.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxViolation,
)
from p2p.host.yamux_streams import UNREAD_BYTES_MAX, UNSENT_FLOOR_BYTES
from p2p.host.yamux_window import RECEIVE_WINDOW, RECEIVE_WINDOW_MAX
from tests.p2p.host.wires import Frame, frames_of, listener, opened, outgoing, wire


@pytest.mark.parametrize(
    "frames",
    [
        [(4, 0, 1, 0)],
        [(255, 0, 1, 0)],
        [(WINDOW_UPDATE, SYN, 2, 0)],
        [(WINDOW_UPDATE, SYN, 0, 0)],
        [(DATA, SYN, 2, 0)],
        [(WINDOW_UPDATE, SYN, 1, 0), (WINDOW_UPDATE, SYN, 1, 0)],
        [(WINDOW_UPDATE, SYN, 1, 0), (WINDOW_UPDATE, RST, 1, 0), (WINDOW_UPDATE, SYN, 1, 0)],
        [(WINDOW_UPDATE, SYN, 2**32 - 1, 0), (WINDOW_UPDATE, SYN, 1, 0)],
        [(DATA, SYN, 1, RECEIVE_WINDOW + 1)],
        [(DATA, 0, 1, RECEIVE_WINDOW_MAX + 1)],
        [(DATA, 0, 1, 2**32 - 1)],
    ],
)
def test_frames_against_the_rules_end_the_connection(frames: list[Frame]) -> None:
    with pytest.raises(YamuxViolation):
        listener().on_bytes(wire(*frames))


def test_another_version_ends_the_connection() -> None:
    with pytest.raises(YamuxViolation, match="version"):
        listener().on_bytes(b"\1" + wire((PING, SYN, 0, 0))[1:])


def test_data_beyond_the_window_ends_the_connection() -> None:
    session = listener()
    stream_id = opened(session)
    session.on_bytes(wire((DATA, 0, stream_id, RECEIVE_WINDOW), bytes(RECEIVE_WINDOW)))
    with pytest.raises(YamuxViolation, match="window"):
        session.on_bytes(wire((DATA, 0, stream_id, 1)))


def test_a_huge_window_update_is_capped() -> None:
    session = listener()
    stream_id = opened(session)
    for _ in range(3):
        session.on_bytes(wire((WINDOW_UPDATE, 0, stream_id, 2**32 - 1)))
    session.send(stream_id, bytes(100_000))
    assert len(outgoing(session)) > 100_000


@pytest.mark.parametrize("flags", [0, ACK, FIN, RST, FIN | RST, ACK | FIN])
def test_frames_for_unknown_streams_are_ignored(flags: int) -> None:
    session = listener()
    for stream_id in (0, 1, 2, 77, 2**32 - 1):
        session.on_bytes(wire((DATA, flags, stream_id, 5), b"stray"))
        session.on_bytes(wire((WINDOW_UPDATE, flags, stream_id, 2**32 - 1)))
    assert outgoing(session) == b""
    assert session._unread.used == 0


def test_data_after_the_end_resets_that_stream_only() -> None:
    session = listener()
    first, second = opened(session, 1), opened(session, 3)
    session.on_bytes(wire((DATA, FIN, first, 3), b"end"))
    received = session.on_bytes(wire((DATA, 0, first, 4), b"more", (DATA, 0, second, 2), b"ok"))
    assert received.reset == [first]
    assert not session.is_open(first)
    assert session.take(second, 10) == b"ok"


def test_streams_beyond_the_limit_are_refused_and_the_others_live() -> None:
    session = listener()
    ids = range(1, 2 * INBOUND_STREAMS_MAX + 41, 2)
    received = session.on_bytes(wire(*((WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in ids)))
    assert received.opened == list(ids[:INBOUND_STREAMS_MAX])
    refused = [frame[2] for frame in frames_of(outgoing(session)) if frame[1] & RST]
    assert refused == list(ids[INBOUND_STREAMS_MAX:])
    session.on_bytes(wire((DATA, 0, refused[0], 5), b"stray", (DATA, 0, 1, 2), b"ok"))
    assert session.take(1, 10) == b"ok"
    # A place that has come free is taken again.
    session.on_bytes(wire((WINDOW_UPDATE, RST, 3, 0)))
    assert session.on_bytes(wire((WINDOW_UPDATE, SYN, ids[-1] + 2, 0))).opened == [ids[-1] + 2]


@pytest.mark.parametrize("kind", [PING, WINDOW_UPDATE])
def test_who_asks_on_without_reading_is_cut_off(kind: int) -> None:
    session = listener()
    ids = range(1, 2**32, 2)
    with pytest.raises(YamuxViolation, match="does not read"):
        for count in range(ANSWERS_MAX + 1):
            if kind == PING:
                session.on_bytes(wire((PING, SYN, 0, count)))
            else:
                session.on_bytes(wire((kind, SYN, ids[count], 0), (kind, RST, ids[count], 0)))


def test_answers_that_go_out_do_not_add_up() -> None:
    session = listener()
    for _ in range(3):
        session.on_bytes(wire((PING, SYN, 0, 1)) * ANSWERS_MAX)
        outgoing(session)


@pytest.mark.slow
def test_single_bytes_do_not_cost_many_times_their_size() -> None:
    session = listener()
    stream_id = opened(session)
    for start in range(0, 200_000, 1_000):
        frames = b"".join(wire((DATA, 0, stream_id, 1), b"x") for _ in range(1_000))
        session.on_bytes(frames)
        assert session.unread_bytes(stream_id) == start + 1_000
    inbox = session._streams[stream_id].inbox
    assert sum(map(sys.getsizeof, inbox)) < 2 * 200_000
    assert session.take(stream_id, 1 << 20) == b"x" * 200_000


def test_unread_bytes_of_all_streams_are_bounded() -> None:
    session = listener()
    broken: list[int] = []
    for stream_id in range(1, 2 * INBOUND_STREAMS_MAX, 2):
        opened(session, stream_id)
        while credit := session._streams[stream_id].credit_bytes:
            broken += session.on_bytes(wire((DATA, 0, stream_id, credit), bytes(credit))).reset
            if not session.is_open(stream_id):
                break
    assert broken
    assert session._unread.used <= UNREAD_BYTES_MAX


def test_unread_bytes_of_all_connections_are_bounded() -> None:
    budget = Budget(total_max=4_000_000, share_max=3_000_000)
    greedy = YamuxSession(dialer=False, unread=budget.open_share())
    for stream_id in (1, 3, 5, 7):
        opened(greedy, stream_id)
        greedy.on_bytes(wire((DATA, 0, stream_id, RECEIVE_WINDOW), bytes(RECEIVE_WINDOW)))
    modest = YamuxSession(dialer=False, unread=budget.open_share())
    opened(modest)
    assert not modest.on_bytes(wire((DATA, 0, 1, 500_000), bytes(500_000))).reset
    assert budget.used < budget.total_max
    greedy.on_lost()
    assert budget.used == 500_000


def test_queued_bytes_of_all_streams_are_bounded_but_none_starves() -> None:
    near = YamuxSession(dialer=True, unsent=Budget(total_max=300, share_max=100).open_share())
    first, second = near.open(), near.open()
    near.send(first, bytes(100_000))
    assert near.room_bytes(first, 262_144) == 0
    assert near.room_bytes(second, 262_144) == UNSENT_FLOOR_BYTES
    assert near.room_bytes(second, 1_000) == 1_000


# Noise


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_random_bytes_raise_nothing_but_violations(data: bytes, seed: int) -> None:
    session = YamuxSession(dialer=bool(seed % 2))
    _feed(session, data, random.Random(seed))


plausible_frames = st.tuples(
    st.sampled_from([DATA, WINDOW_UPDATE, WINDOW_UPDATE, PING, GO_AWAY, 9]),
    st.sampled_from([0, 0, SYN, ACK, FIN, RST, SYN | FIN, SYN | RST, SYN | ACK | FIN | RST]),
    st.integers(0, 8),
    st.sampled_from([0, 1, 40, 70_000, RECEIVE_WINDOW, 2**32 - 1]),
)


@given(st.lists(plausible_frames, max_size=40), st.integers(0, 2**32))
def test_hostile_frames_raise_nothing_but_violations(frames: list[Frame], seed: int) -> None:
    rng = random.Random(seed)
    session = YamuxSession(dialer=bool(seed % 2))
    for kind, flags, stream_id, length in frames:
        data = wire((kind, flags, stream_id, length))
        if kind == DATA and length <= RECEIVE_WINDOW:
            data += bytes(length)
        if not _feed(session, data, rng):
            return
        _do_something(session, rng)


def _feed(session: YamuxSession, data: bytes, rng: random.Random) -> bool:
    """Give bytes in pieces; whether the session still lives."""
    position = 0
    while position < len(data):
        size = rng.choice((1, 5, 12, 100, len(data)))
        try:
            session.on_bytes(data[position : position + size])
        except YamuxViolation:
            return False
        position += size
    return True


def _do_something(session: YamuxSession, rng: random.Random) -> None:
    """What our own side may do at any time, with any of its streams."""
    if rng.random() < 0.2:
        session.open()
    streams = list(session._streams)
    if streams:
        stream_id = rng.choice(streams)
        is_ours = not session._streams[stream_id].abandoned
        match rng.randrange(6):
            case 0 if is_ours and not session.finished(stream_id):
                session.send(stream_id, bytes(session.room_bytes(stream_id, 50_000)))
            case 1 if is_ours:
                session.take(stream_id, 10_000)
            case 2 if is_ours:
                session.finish(stream_id)
            case 3:
                session.abandon(stream_id)
            case 4:
                session.reset(stream_id)
            case _:
                session.on_tick()
    outgoing(session)
    held = session._streams.values()
    assert session._unread.used == sum(state.unread_bytes for state in held)
    assert session.unsent_bytes == sum(state.unsent_bytes for state in held)
    assert session._inbound_count == sum(state.inbound for state in held)
