"""The router's clock: which counts mean that it has started anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.nat.portmap.epoch import Epoch


def told(first: int, second: int, after_s: float, *, may_jump_ahead: bool) -> bool:
    epoch = Epoch(may_jump_ahead=may_jump_ahead)
    assert epoch.on_told(first, 1_000.0) is False
    return epoch.on_told(second, 1_000.0 + after_s)


@pytest.mark.parametrize(
    ("first", "second", "after_s", "pcp", "natpmp"),
    [
        (100, 125, 25.0, False, False),
        (100, 100, 0.1, False, False),
        (100, 99, 0.1, False, False),  # the standard bears one second back
        (100, 98, 0.1, True, True),
        (100, 3, 25.0, True, True),  # restarted
        (100, 100, 25.0, True, True),  # stands still
        (100, 122, 25.0, False, False),
        (100, 118, 25.0, True, True),
        (100, 160, 25.0, True, False),  # runs ahead
        (4_000, 4_000 + 1_730, 1_800.0, False, False),
        (4_000, 4_000 + 1_600, 1_800.0, True, False),
        (4_000, 4_000 + 1_500, 1_800.0, True, True),
        (2**32 - 1, 20, 25.0, True, True),
    ],
)
def test_counts(first: int, second: int, after_s: float, pcp: bool, natpmp: bool) -> None:
    assert told(first, second, after_s, may_jump_ahead=False) is pcp
    # RFC 6886 has seven eighths and two seconds.
    assert told(first, second, after_s, may_jump_ahead=True) is natpmp


@given(
    steps=st.lists(st.floats(0.1, 4_000.0), max_size=20),
    rate=st.floats(0.96, 1.04),
    start=st.integers(0, 1_000_000),
)
def test_a_clock_that_goes_on_never_looks_restarted(
    steps: list[float], rate: float, start: int
) -> None:
    now_s = 0.0
    for may_jump_ahead in (False, True):
        epoch = Epoch(may_jump_ahead=may_jump_ahead)
        for step_s in (0.0, *steps):
            now_s += step_s
            assert not epoch.on_told(start + int(now_s * rate), now_s)
