"""One direction of a link: what it delays, in which order it delivers, and how much it loses."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.testing.netlab.emulator import IN_FLIGHT_BYTES_MAX, Wire

SECONDS = st.floats(min_value=0, max_value=10)


@given(gaps_s=st.lists(SECONDS, max_size=50), delay_s=SECONDS, jitter_s=SECONDS, seed=st.integers())
def test_frames_stay_in_order_and_within_delay_and_jitter(
    gaps_s: list[float], delay_s: float, jitter_s: float, seed: int
) -> None:
    wire = Wire(random.Random(seed))
    wire.change(delay_s=delay_s, jitter_s=jitter_s, loss=0.0)
    now_s, last_due_s = 1000.0, 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        due_s = wire.on_frame(1500, now_s)
        assert due_s is not None
        assert last_due_s <= due_s
        assert now_s <= due_s <= now_s + delay_s + jitter_s + 1e-9
        # What keeps a frame longer than it would need is only the one before it.
        assert due_s >= now_s + delay_s - jitter_s - 1e-9
        last_due_s = due_s


def test_no_delay_is_none() -> None:
    wire = Wire(random.Random(1))
    assert wire.on_frame(1500, 7.0) == 7.0
    wire.change(delay_s=0.5, jitter_s=0.0, loss=0.0)
    assert wire.on_frame(1500, 8.0) == 8.5


def test_loss_is_the_share_of_frames_that_never_arrive() -> None:
    wire = Wire(random.Random(1))
    wire.change(delay_s=0.0, jitter_s=0.0, loss=0.25)
    lost = sum(wire.on_frame(1, 0.0) is None for _ in range(10_000))
    assert 2_300 < lost < 2_700


def test_what_is_under_way_is_bounded_and_leaves_again() -> None:
    wire = Wire(random.Random(1))
    wire.change(delay_s=60.0, jitter_s=0.0, loss=0.0)
    size = 64_000
    sent = 0
    while wire.on_frame(size, 0.0) is not None:
        sent += 1
    assert IN_FLIGHT_BYTES_MAX - size < sent * size <= IN_FLIGHT_BYTES_MAX
    wire.on_arrived(size)
    assert wire.on_frame(size, 1.0) == 61.0
    assert wire.on_frame(size, 1.0) is None
