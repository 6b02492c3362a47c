"""Whose turn it is: small messages pass bulk, and bulk is not starved."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.muxer import BATCH_BYTES_MIN
from p2p.host.yamux import FRAME_DATA_MAX
from p2p.host.yamux_frame import DATA
from p2p.host.yamux_turns import FIRST_FRAME_BYTES_MAX, Turns
from tests.p2p.host.wires import exchange, frames_of, pair

BATCH_BYTES = 262_144


def test_a_small_message_passes_the_bulk_of_many_streams() -> None:
    near, far, first = pair()
    bulk = [first, *(near.open() for _ in range(9))]
    small = near.open()
    exchange(near, far)
    for stream_id in bulk:
        near.send(stream_id, bytes(800_000))
    near.next_frames(4 * BATCH_BYTES)
    near.send(small, b"small")
    frames = frames_of(b"".join(near.next_frames(BATCH_BYTES)))
    assert frames[0] == (DATA, 0, small, 5)


def test_what_passes_is_short_and_then_takes_turns() -> None:
    near, far, first = pair()
    late = near.open()
    exchange(near, far)
    near.send(first, bytes(800_000))
    near.next_frames(BATCH_BYTES)
    near.send(late, bytes(800_000))
    frames = frames_of(b"".join(near.next_frames(BATCH_BYTES)))
    assert [(stream_id, size) for _, _, stream_id, size in frames[:3]] == [
        (late, FIRST_FRAME_BYTES_MAX),
        (first, FRAME_DATA_MAX),
        (late, FRAME_DATA_MAX),
    ]


def test_many_short_bursts_do_not_starve_bulk() -> None:
    # The shortest batch is the slowest path.
    for batch_bytes in (BATCH_BYTES_MIN, BATCH_BYTES):
        near, far, first = pair()
        bursts = [near.open() for _ in range(40)]
        exchange(near, far)
        near.send(first, bytes(800_000))
        near.next_frames(1)
        for stream_id in bursts:
            near.send(stream_id, bytes(FIRST_FRAME_BYTES_MAX))
        sent = b"".join(near.next_frames(batch_bytes))
        of_bulk = sum(size for _, _, stream_id, size in frames_of(sent) if stream_id == first)
        assert of_bulk >= min(batch_bytes // 4, FRAME_DATA_MAX)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 5), st.booleans()),
            st.tuples(st.just("discard"), st.integers(0, 5), st.booleans()),
            st.tuples(st.just("next"), st.integers(0, 5), st.booleans()),
        )
    )
)
def test_each_stands_in_line_once_and_comes_in_order(steps: list[tuple[str, int, bool]]) -> None:
    turns = Turns()
    waiting: list[tuple[int, bool]] = []
    for step, stream_id, flag in steps:
        if step == "add":
            turns.add(stream_id, rested=flag)
            if stream_id not in dict(waiting):
                waiting.append((stream_id, flag))
        elif step == "discard":
            turns.discard(stream_id)
            waiting = [one for one in waiting if one[0] != stream_id]
        elif waiting:
            rested = [one for one in waiting if one[1]]
            steady = [one for one in waiting if not one[1]]
            expected = rested[0] if rested and (flag or not steady) else steady[0]
            assert turns.next(may_pass=flag) == (expected[0], expected[1] and bool(steady))
            waiting.remove(expected)
        assert bool(turns) == bool(waiting)
        assert all((number in turns) == (number in dict(waiting)) for number in range(6))
