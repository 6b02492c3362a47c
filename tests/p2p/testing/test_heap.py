"""What is asked for at some time happens then, and in that order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.testing.dht_world.heap import EventHeap

delays = st.floats(0, 3) | st.sampled_from([0.0, 0.01, 0.02, 1.0])


@given(
    plans=st.lists(st.tuples(delays, st.lists(delays, max_size=3)), max_size=30),
    ends=st.lists(st.floats(0, 8), max_size=5),
)
def test_calls_come_in_order_of_time_and_of_asking(
    plans: list[tuple[float, list[float]]], ends: list[float]
) -> None:
    heap = EventHeap()
    asked: list[tuple[float, int]] = []
    happened: list[tuple[float, int]] = []

    def ask(delay_s: float, later: list[float]) -> None:
        event = heap.now_s + delay_s, len(asked)
        asked.append(event)
        heap.after(delay_s, happen, event, later)

    def happen(event: tuple[float, int], later: list[float]) -> None:
        assert heap.now_s == event[0]
        happened.append(event)
        for delay_s in later:
            ask(delay_s, [])

    for delay_s, later in plans:
        ask(delay_s, later)
    for end_s in sorted(ends):
        before = len(happened)
        assert heap.run_until(end_s) == len(happened) - before
        assert heap.now_s == end_s
        assert happened == sorted(event for event in asked if event[0] <= end_s)
    heap.run_until(100.0)
    assert happened == sorted(asked)
