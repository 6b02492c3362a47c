"""Who may measure how much: one at a time, within the hour's bytes, and never promised twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.probe.limits import BandwidthGuard, BandwidthLimits, Grant

ALICE, BOB, CAROL = (PeerId(name) for name in ("alice", "bob", "carol"))
LIMITS = BandwidthLimits(
    at_once_max=2,
    measurement_bytes_max=1_000,
    peer_bytes_per_hour_max=2_500,
    bytes_per_hour_max=4_000,
)


def granted(guard: BandwidthGuard, peer: PeerId, now_s: float = 0.0) -> Grant:
    answer = guard.on_asked(peer, now_s)
    assert isinstance(answer, Grant), answer
    return answer


def test_one_at_a_time_and_few_at_once() -> None:
    guard = BandwidthGuard(LIMITS)
    first = granted(guard, ALICE)
    assert guard.on_asked(ALICE, 0.0) == "one measurement at a time"
    granted(guard, BOB)
    assert "others measure now" in str(guard.on_asked(CAROL, 0.0))
    guard.on_ended(first, 10, 1.0)
    granted(guard, CAROL, 1.0)


def test_a_peer_gets_its_bytes_and_they_come_back_within_the_hour() -> None:
    guard = BandwidthGuard(LIMITS)
    for size_bytes in (1_000, 1_000, 500):
        grant = granted(guard, ALICE)
        assert grant.size_bytes_max == size_bytes
        guard.on_ended(grant, size_bytes, 0.0)
        guard.on_ended(grant, size_bytes, 0.0)  # counted once
    assert "enough was measured" in str(guard.on_asked(ALICE, 0.0))
    assert granted(guard, BOB).size_bytes_max == 1_000
    assert granted(guard, ALICE, 3_600.0).size_bytes_max == 1_000


def test_all_together_have_a_limit_that_new_keys_do_not_lift() -> None:
    guard = BandwidthGuard(LIMITS)
    for number in range(4):
        grant = granted(guard, PeerId(f"key{number}"))
        guard.on_ended(grant, grant.size_bytes_max, 0.0)
    assert "enough was measured" in str(guard.on_asked(PeerId("key5"), 0.0))
    closed = BandwidthGuard(BandwidthLimits(bytes_per_hour_max=0))
    assert "enough was measured" in str(closed.on_asked(ALICE, 0.0))


def test_limits_are_checked() -> None:
    for name in ("at_once_max", "measurement_bytes_max", "peer_bytes_per_hour_max"):
        with pytest.raises(ValueError, match=name):
            BandwidthLimits(**{name: 0})
    with pytest.raises(ValueError, match="bytes_per_hour_max"):
        BandwidthLimits(bytes_per_hour_max=-1)


events = st.lists(
    st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(0, 1_000), st.floats(0, 30))
)


@given(events)
def test_whatever_is_asked_the_hour_holds(steps: list[tuple[str, bool, int, float]]) -> None:
    guard, now_s, moved = BandwidthGuard(LIMITS), 0.0, 0
    under_way: list[Grant] = []
    for name, ends, size_bytes, later_s in steps:
        now_s += later_s
        if ends and under_way:
            grant = under_way.pop(0)
            moved += min(size_bytes, grant.size_bytes_max)
            guard.on_ended(grant, min(size_bytes, grant.size_bytes_max), now_s)
        elif isinstance(answer := guard.on_asked(PeerId(name), now_s), Grant):
            under_way.append(answer)
        assert len(under_way) <= LIMITS.at_once_max
        promised = sum(grant.size_bytes_max for grant in under_way)
        # What came back since the beginning, and one byte of rounding for each.
        back = LIMITS.bytes_per_hour_max * now_s / 3_600
        assert moved + promised <= LIMITS.bytes_per_hour_max + back + len(steps) + 1
