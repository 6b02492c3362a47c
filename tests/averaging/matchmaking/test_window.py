"""The adaptive deadline: bounds, memory, and the rounds that teach it."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.matchmaking import MatchmakingConfig
from averaging.matchmaking.window import ArrivalWindow

arrivals = st.lists(st.floats(-1.0, 100.0), max_size=30)


@given(arrivals)
def test_the_window_is_median_plus_four_deviations_of_the_last_rounds(seen: list[float]) -> None:
    window = ArrivalWindow(lower_s=0.5, upper_s=5.0)
    assert window.window_s == window.upper_s == 5.0
    assert not window.experienced
    for arrival_s in seen:
        window.on_closed(arrival_s)
    if seen:
        recent = [min(max(arrival_s, 0.0), 5.0) for arrival_s in seen[-8:]]
        median = statistics.median(recent)
        spread = statistics.median([abs(value - median) for value in recent])
        assert window.window_s == pytest.approx(min(max(median + 4 * spread, 0.5), 5.0))
        assert window.experienced


def test_one_that_is_always_late_is_waited_for_in_the_end() -> None:
    window = ArrivalWindow(lower_s=0.5, upper_s=5.0)
    for _ in range(9):
        window.on_closed(0.1)
        window.on_late(2.0)
    assert window.window_s == 2.0
    window.on_late(1_000.0)
    assert window.window_s == 2.0


@pytest.mark.parametrize(
    "options",
    [
        {"group_size_max": 0},
        {"group_size_max": 257},
        {"group_size_min": 65},
        {"group_size_min": 0},
        {"join_window_s_min": 0.0},
        {"join_window_s": 0.1},
        {"join_window_s": float("inf")},
        {"join_window_s": float("nan")},
        {"partition_patience_s": -1.0},
        {"chunk_elements_max": 0},
        {"terms": "x" * 129},
    ],
)
def test_configs_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|must|too long"):
        MatchmakingConfig(**options)  # type: ignore[arg-type]
