"""Rates: a burst at once, then so many in a second, for each key alone."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.host import rates
from p2p.host.rates import Rate


def test_a_burst_passes_and_then_so_many_in_a_second() -> None:
    rate = Rate(per_s=2, burst=3)
    assert [rate.allows("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b", 0.0)
    assert not rate.allows("a", 0.4)
    assert rate.allows("a", 0.5)
    assert not rate.allows("a", 0.5)
    assert [rate.allows("a", 100.0) for _ in range(4)] == [True, True, True, False]


@given(
    st.floats(0.5, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate(
    per_s: float, burst: int, pauses: list[float]
) -> None:
    rate = Rate(per_s=per_s, burst=burst)
    now_s, passed = 0.0, 0
    for pause in pauses:
        now_s += pause
        passed += rate.allows("a", now_s)
        assert passed <= burst + now_s * per_s + 1e-6


def test_the_keys_that_are_kept_are_bounded() -> None:
    rate = Rate(per_s=1, burst=1)
    for number in range(rates._KEYS_MAX + 100):
        assert rate.allows(str(number), 0.0)
    assert len(rate._buckets) == rates._KEYS_MAX
