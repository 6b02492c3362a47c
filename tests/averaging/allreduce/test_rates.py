"""The rate meter: a safe start, no trust in single bursts, and steps instead of wavering."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.rates import SAMPLE_BYTES_MIN, Flow, RateMeter

MIB = 1 << 20


def told_after(rates: list[float]) -> list[float | None]:
    """What a meter tells after each round of 4 MiB up at one of these rates."""
    meter = RateMeter()
    told = []
    for rate in rates:
        meter.on_round(4 * MIB, 0, 4 * MIB / rate, 0.0)
        told.append(meter.up_bytes_per_s)
    return told


def test_nothing_is_known_before_enough_was_moved() -> None:
    meter = RateMeter()
    assert (meter.up_bytes_per_s, meter.down_bytes_per_s) == (None, None)
    meter.on_round(SAMPLE_BYTES_MIN - 1, SAMPLE_BYTES_MIN, 1.0, 2.0)
    assert (meter.up_bytes_per_s, meter.down_bytes_per_s) == (None, SAMPLE_BYTES_MIN / 2)
    # Small rounds add up.
    meter.on_round(1, 0, 1.0, 0.0)
    assert meter.up_bytes_per_s == SAMPLE_BYTES_MIN / 2


def test_a_burst_does_not_count_and_two_do() -> None:
    told = told_after([MIB, 50 * MIB, MIB, 50 * MIB])
    assert told == pytest.approx([MIB, MIB, MIB, 50 * MIB])


def test_rounds_that_others_slowed_down_change_nothing() -> None:
    told = told_after([10 * MIB, 10 * MIB, 2 * MIB, 3 * MIB, MIB, 2 * MIB])
    assert told == pytest.approx([10 * MIB] * 6)


def test_a_link_that_stays_slow_is_noticed() -> None:
    told = told_after([10 * MIB] * 8 + [MIB] * 8)
    assert told[-3] == pytest.approx(10 * MIB)
    assert told[-1] == pytest.approx(MIB)


def test_what_is_told_does_not_waver() -> None:
    told = told_after([10 * MIB, 11 * MIB, 9 * MIB, 11 * MIB, 11.5 * MIB, 12.5 * MIB, 12.5 * MIB])
    assert told == pytest.approx([10 * MIB] * 6 + [12.5 * MIB])


@given(st.lists(st.tuples(st.integers(0, 10 * MIB), st.floats(0, 1e6)), max_size=40))
def test_whatever_it_is_fed_it_tells_a_positive_rate_or_none(
    rounds: list[tuple[int, float]],
) -> None:
    meter = RateMeter()
    for size_bytes, seconds in rounds:
        meter.on_round(size_bytes, size_bytes, seconds, seconds)
    enough = sum(size_bytes for size_bytes, _ in rounds) >= SAMPLE_BYTES_MIN
    assert (meter.up_bytes_per_s is not None) == enough
    for rate in (meter.up_bytes_per_s, meter.down_bytes_per_s):
        assert rate is None or rate > 0


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_seconds_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="not negative"):
        RateMeter().on_round(1, 1, seconds, 1.0)
    with pytest.raises(ValueError, match="not negative"):
        RateMeter().on_round(-1, 1, 1.0, 1.0)


def test_the_busiest_half_second_but_one_is_what_a_round_shows() -> None:
    flow = Flow()
    # A burst into empty buffers, four seconds at full speed, then six with one slow peer.
    flow.on_moved(100.0, 100.1, 9 * MIB)
    flow.on_moved(100.5, 104.5, 16 * MIB)
    flow.on_moved(104.5, 110.5, 3 * MIB)
    assert flow.busiest_bytes_per_s == pytest.approx(4 * MIB)
    meter = RateMeter()
    meter.on_round(28 * MIB, 0, 10.5, 0.0, sending=flow)
    assert meter.up_bytes_per_s == pytest.approx(4 * MIB)


def test_a_short_round_shows_its_mean() -> None:
    flow = Flow()
    flow.on_moved(0.0, 1.2, 6 * MIB)
    assert flow.busiest_bytes_per_s is None
    meter = RateMeter()
    meter.on_round(6 * MIB, 0, 1.2, 0.0, sending=flow)
    assert meter.up_bytes_per_s == pytest.approx(5 * MIB)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20), st.integers(0, 10 * MIB)), max_size=30)
)
def test_what_moved_is_in_some_half_second(moves: list[tuple[float, float, int]]) -> None:
    flow = Flow()
    for one_s, other_s, size_bytes in moves:
        flow.on_moved(min(one_s, other_s), max(one_s, other_s), size_bytes)
    total = sum(size_bytes for _, _, size_bytes in moves)
    assert sum(flow._bytes.values()) == pytest.approx(total)
