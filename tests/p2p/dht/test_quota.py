"""Quotas: no peer has us check more than its share, and invalid records cost it dear."""

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.quota import INVALID_COST, Quotas

ALICE, BOB = PeerId("alice"), PeerId("bob")


def test_a_burst_and_then_so_many_a_second() -> None:
    quotas = Quotas(burst=100, per_s=10)
    assert quotas.admit(ALICE, 60, 0.0) == 60
    assert quotas.admit(ALICE, 60, 0.0) == 40
    assert quotas.admit(ALICE, 60, 0.0) == 0
    assert quotas.admit(ALICE, 60, 2.0) == 20
    assert quotas.admit(BOB, 60, 2.0) == 60
    assert quotas.admit(ALICE, 1000, 1000.0) == 100


def test_invalid_records_cost_more() -> None:
    quotas = Quotas(burst=100, per_s=10)
    assert quotas.admit(ALICE, 5, 0.0) == 5
    quotas.on_invalid(ALICE, 5, 0.0)
    assert quotas.admit(ALICE, 100, 0.0) == 100 - 5 * INVALID_COST
    # Debts are bounded, too: a burst of time pays for them.
    quotas.on_invalid(ALICE, 10_000, 0.0)
    assert quotas.admit(ALICE, 1, 10.0) == 0
    assert quotas.admit(ALICE, 1, 10.2) == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10), st.integers(0, 3)), max_size=50))
def test_never_more_than_the_burst_and_what_time_brings(
    offers: list[tuple[int, float, int]],
) -> None:
    quotas = Quotas(burst=20, per_s=5)
    now_s, admitted = 0.0, 0
    for count, pause_s, invalid in offers:
        now_s += pause_s
        taken = quotas.admit(ALICE, count, now_s)
        assert 0 <= taken <= count
        admitted += taken
        quotas.on_invalid(ALICE, min(invalid, taken), now_s)
        assert admitted <= 20 + 5 * now_s + 1e-6
