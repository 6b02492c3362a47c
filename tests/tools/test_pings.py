"""Pings in numbers: by path, with losses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.pings import Latency, Pings, percentile


def test_each_path_has_its_own_latency() -> None:
    pings = Pings()
    for round_trip_s in (0.3, 0.1, 0.2):
        pings.on_answer("relayed", round_trip_s)
    pings.on_lost()
    pings.on_answer("punched", 0.05)
    assert (pings.sent, pings.lost, pings.loss) == (5, 1, pytest.approx(0.2))
    assert pings.latencies() == {
        "relayed": Latency(3, 0.1, 0.2, 0.3),
        "punched": Latency(1, 0.05, 0.05, 0.05),
    }


def test_no_pings_no_loss() -> None:
    assert (Pings().loss, Pings().latencies()) == (0.0, {})


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_so_many_are_at_most_the_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)
