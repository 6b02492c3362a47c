"""How long a run still takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.eta import Eta, in_words


def test_the_pace_of_the_latest_steps_counts() -> None:
    eta = Eta(steps=100)
    eta.restart(0, 0.0)
    assert eta.left_s is None
    for step in range(1, 11):
        eta.on_step(step, 10.0 * step)
    assert eta.left_s == pytest.approx(900.0)
    for step in range(11, 61):
        eta.on_step(step, 100.0 + (step - 10))
    assert eta.left_s == pytest.approx(40.0)
    eta.on_step(120, 300.0)
    assert eta.left_s == 0


def test_steps_that_others_made_are_no_pace() -> None:
    eta = Eta(steps=1000)
    eta.restart(0, 0.0)
    eta.on_step(1, 2.0)
    eta.restart(900, 3.0)
    assert eta.left_s is None
    eta.on_step(901, 5.0)
    assert eta.left_s == pytest.approx(198.0)


@given(made=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e9)), max_size=40))
def test_whatever_happens_it_is_a_time_or_nothing(made: list[tuple[int, float]]) -> None:
    eta = Eta(steps=40)
    for step, time_s in made:
        eta.on_step(step, time_s)
        assert eta.left_s is None or eta.left_s >= 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (99.0, "99 s"),
        (120.0, "2 min"),
        (5940.0, "99 min"),
        (6000.0, "1 h 40 min"),
        (3 * 86400.0, "3 days"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
