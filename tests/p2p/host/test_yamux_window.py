"""Windows follow the path: they grow when they hold the sender back, and within their budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.budget import Budget, Share
from p2p.host.yamux_stream import INITIAL_WINDOW, StreamState
from p2p.host.yamux_window import (
    GRANTS_APART_S,
    PROMISED_BYTES_MAX,
    RECEIVE_WINDOW,
    RECEIVE_WINDOW_MAX,
    WIDE_STREAMS_MAX,
    Windows,
)


def windows(promised: Share | None = None) -> Windows:
    return Windows(promised or Share.alone(PROMISED_BYTES_MAX))


def stream_on_a_path(
    kept: Windows, *, rtt_s: float, bytes_per_s: float, seconds: float
) -> StreamState:
    """A stream whose sender is never idle: held back by its window, or by the path's rate."""
    kept.on_rtt(rtt_s)
    state = StreamState(inbound=True)
    kept.grant(state, None)
    now_s = 0.0
    while now_s < seconds:
        taken = state.receive_window_bytes // 2
        rate = min(bytes_per_s, state.receive_window_bytes / rtt_s)
        now_s += taken / rate
        state.credit_bytes -= taken
        state.uncredited_bytes += taken
        kept.grant(state, now_s)
        assert state.credit_bytes == state.receive_window_bytes
    return state


@pytest.mark.parametrize(
    ("rtt_s", "bytes_per_s"),
    [(0.1, 20e6), (0.05, 5e6), (0.2, 12.5e6), (0.0005, 1e9), (0.0005, 40e6), (0.0005, 5e6)],
)
def test_a_window_grows_until_the_path_is_full_and_no_further(
    rtt_s: float, bytes_per_s: float
) -> None:
    seconds = max(60 * rtt_s, 1.0)
    state = stream_on_a_path(windows(), rtt_s=rtt_s, bytes_per_s=bytes_per_s, seconds=seconds)
    on_the_path = rtt_s * bytes_per_s
    between_grants = GRANTS_APART_S * bytes_per_s
    least = min(2 * max(on_the_path, between_grants), RECEIVE_WINDOW_MAX)
    assert state.receive_window_bytes >= least
    most = max(8 * on_the_path, 4 * between_grants, RECEIVE_WINDOW)
    assert state.receive_window_bytes <= most


def test_no_window_grows_beyond_its_end() -> None:
    state = stream_on_a_path(windows(), rtt_s=1.0, bytes_per_s=1e12, seconds=60)
    assert state.receive_window_bytes == RECEIVE_WINDOW_MAX


def test_a_window_stays_when_the_round_trip_is_unknown() -> None:
    kept = windows()
    state = StreamState(inbound=True)
    for _ in range(20):
        state.uncredited_bytes += state.receive_window_bytes // 2
        kept.grant(state, 1.0)
    assert state.receive_window_bytes == RECEIVE_WINDOW


def test_many_connections_share_what_can_be_promised_and_give_it_back() -> None:
    budget = Budget(total_max=8 * RECEIVE_WINDOW_MAX, share_max=PROMISED_BYTES_MAX)
    several = [windows(budget.open_share()) for _ in range(20)]
    states = [
        [stream_on_a_path(kept, rtt_s=1.0, bytes_per_s=1e12, seconds=40) for _ in range(3)]
        for kept in several
    ]
    assert 0 < budget.used <= budget.total_max
    # The first could grow as far as they liked, and the last were still let grow a little.
    assert states[0][0].receive_window_bytes == RECEIVE_WINDOW_MAX
    assert sum(map(len, states)) == 60
    for kept, held in zip(several[:10], states[:10], strict=True):
        for state in held:
            kept.forget(state)
    for kept in several[10:]:
        kept.close()
    assert budget.used == 0


def test_streams_beyond_the_wide_ones_keep_the_window_of_the_specification() -> None:
    kept = windows()
    states = [StreamState(inbound=True) for _ in range(WIDE_STREAMS_MAX + 2)]
    for state in states:
        kept.grant(state, None)
    assert [state.receive_window_bytes for state in states[-3:]] == [
        RECEIVE_WINDOW,
        INITIAL_WINDOW,
        INITIAL_WINDOW,
    ]


def test_a_window_holds_a_large_message_and_some_more_as_far_as_may_be_promised() -> None:
    budget = Budget(total_max=48 * RECEIVE_WINDOW, share_max=16 * RECEIVE_WINDOW)
    kept = windows(budget.open_share())
    state = StreamState(inbound=True)
    kept.grant(state, None)
    assert not kept.make_room_for(state, RECEIVE_WINDOW // 4)
    assert kept.make_room_for(state, RECEIVE_WINDOW)
    assert state.receive_window_bytes == 4 * RECEIVE_WINDOW
    assert kept.grant(state, None) == 3 * RECEIVE_WINDOW
    assert not kept.make_room_for(state, RECEIVE_WINDOW), "it is as wide already"
    assert kept.make_room_for(state, 200 * RECEIVE_WINDOW)
    assert state.receive_window_bytes == 8 * RECEIVE_WINDOW
    another = StreamState(inbound=True)
    kept.grant(another, None)
    assert kept.make_room_for(another, 200 * RECEIVE_WINDOW)
    third = StreamState(inbound=True)
    kept.grant(third, None)
    assert not kept.make_room_for(third, 200 * RECEIVE_WINDOW), "so much may not be promised"
    for one in (state, another, third):
        kept.forget(one)
    assert budget.used == 0


def test_streams_beyond_the_wide_ones_stay_narrow_for_large_messages_too() -> None:
    kept = windows()
    states = [StreamState(inbound=True) for _ in range(WIDE_STREAMS_MAX + 1)]
    for state in states:
        kept.grant(state, None)
    assert not kept.make_room_for(states[-1], RECEIVE_WINDOW)
    assert states[-1].receive_window_bytes == INITIAL_WINDOW


@given(st.lists(st.floats(1e-5, 2.0), min_size=1))
def test_the_round_trip_lies_between_what_was_measured(measured: list[float]) -> None:
    kept = windows()
    for rtt_s in measured:
        kept.on_rtt(rtt_s)
    assert kept.rtt_s is not None
    assert min(measured) <= kept.rtt_s * (1 + 1e-9)
    assert kept.rtt_s <= max(measured) * (1 + 1e-9)
    assert kept.rtt_s <= measured[-1] * (1 + 1e-9) or kept.rtt_s < max(measured)
