"""When somebody else is asked, too: twice what nineteen of twenty answers took."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.latency import Latencies
from tests.p2p.dht.test_lookup import contact, lookup_of


def test_the_tail_of_the_last_answers_decides() -> None:
    latencies = Latencies()
    for _ in range(15):
        latencies.on_answer(0.2)
    assert latencies.hedge_s(1.0) == 1.0
    latencies.on_answer(0.2)
    assert latencies.hedge_s(1.0) == 0.4
    # One of twenty may be as slow as it likes.
    latencies.on_answer(9.0)
    for _ in range(20):
        latencies.on_answer(0.2)
    assert latencies.hedge_s(1.0) == 0.4
    for _ in range(10):
        latencies.on_answer(9.0)
    assert latencies.hedge_s(1.0) == 1.0
    for _ in range(64):
        latencies.on_answer(0.001)
    assert latencies.hedge_s(1.0) == 0.1


@given(st.lists(st.floats(0, 100), max_size=100), st.floats(0.2, 5))
def test_it_is_within_its_bounds(took: list[float], most_s: float) -> None:
    latencies = Latencies()
    for one in took:
        latencies.on_answer(one)
    assert 0.1 <= latencies.hedge_s(most_s) <= most_s


def test_a_late_peer_is_passed_over_and_blamed_only_when_it_stalls() -> None:
    lookup = lookup_of(0, [contact(1), contact(2)], parallelism=1, hedge_s=0.2)
    assert [one.key for one in lookup.next_queries(0.0)] == [1]
    assert lookup.deadline_s == 0.2
    lookup.on_deadline(0.2)
    assert ([one.key for one in lookup.late], lookup.silent) == ([1], [])
    assert [one.key for one in lookup.next_queries(0.2)] == [2]
    assert lookup.deadline_s == 0.4
    lookup.on_answer(contact(2).peer_id, [])
    assert lookup.done
    # Who waits on hears of it when it stalls; its answer counts even then.
    lookup.on_deadline(1.0)
    assert (lookup.late, [one.key for one in lookup.silent]) == ([], [1])
    lookup.on_answer(contact(1).peer_id, [])
    assert [one.key for one in lookup.answered()] == [1, 2]
