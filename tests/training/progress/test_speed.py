"""Speed: exact when steady, forgetting slowly, unmoved by nonsense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.progress.speed import SpeedMeter


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(1e-6, 1e3)), min_size=1, max_size=50))
def test_it_equals_the_plain_weighted_sum(measured: list[tuple[int, float]]) -> None:
    meter = SpeedMeter()
    for samples, seconds in measured:
        meter.on_done(samples, seconds)
    weights = [0.9**age for age in range(len(measured))][::-1]
    seconds_per_sample = sum(
        weight * seconds / samples
        for weight, (samples, seconds) in zip(weights, measured, strict=True)
    ) / sum(weights)
    assert meter.units_per_s == pytest.approx(1 / seconds_per_sample)


def test_a_steady_speed_is_known_at_once() -> None:
    meter = SpeedMeter()
    assert meter.units_per_s == 0.0
    meter.on_done(32, 0.5)
    assert meter.units_per_s == pytest.approx(64)


def test_nonsense_is_ignored() -> None:
    meter = SpeedMeter()
    meter.on_done(0, 1.0)
    meter.on_done(5, 0.0)
    meter.on_done(5, -1.0)
    assert meter.units_per_s == 0.0
