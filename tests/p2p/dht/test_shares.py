"""Shares: the heaviest as a plain count finds it, whatever came and went."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.shares import Shares

steps = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 50), st.booleans()),
    max_size=200,
)


@given(steps)
def test_the_heaviest_is_who_brought_most(steps: list[tuple[int, int, int, bool]]) -> None:
    shares = Shares()
    held: dict[tuple[str, int], int] = {}
    for who, slot, size_bytes, asks in steps:
        name = (f"peer{who}", slot)
        if name in held:
            shares.remove(name[0], (slot, None), held.pop(name))
        else:
            held[name] = size_bytes
            shares.add(name[0], (slot, None), size_bytes)
        totals: dict[str, int] = {}
        for (owner, _), size in held.items():
            totals[owner] = totals.get(owner, 0) + size
        assert shares.count == len(held)
        assert shares.size_bytes == sum(totals.values())
        if asks and totals:
            source, share = shares.heaviest()
            assert share.size_bytes == totals[source] == max(totals.values())


def test_the_heap_stays_within_bounds() -> None:
    shares = Shares()
    shares.add("alice", (0, None), 1)
    assert shares.heaviest()[0] == "alice"
    for number in range(1000):
        shares.add("bob", (number, "s"), 1)
        if shares._heap is not None:
            assert len(shares._heap) <= 4 * 2 + 64
    assert shares.heaviest()[0] == "bob"
