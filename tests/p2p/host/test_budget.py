"""Budgets: greedy sharers leave room to others, and what is given back is there again."""

import gc

from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity
from p2p.host.budget import Budget, Share
from p2p.host.shares import Shares


def test_a_share_alone_has_its_limit() -> None:
    share = Share.alone(100)
    assert share.room == 100
    share.take(100)
    assert share.room == 0
    share.give(40)
    assert share.room == 40


def test_the_next_sharer_finds_room_beside_greedy_ones() -> None:
    budget = Budget(total_max=1_000, share_max=900)
    greedy = [budget.open_share() for _ in range(20)]
    for share in greedy:
        share.take(share.room)
    assert budget.used < budget.total_max
    for share in greedy:
        assert share.room == 0
    greedy[0].give(greedy[0].used)
    assert budget.open_share().room > 0


def test_a_closed_share_counts_no_more() -> None:
    budget = Budget(total_max=90, share_max=90)
    share = budget.open_share()
    share.take(30)
    share.close()
    share.close()
    assert budget.used == 0
    share.give(30)
    share.take(5)
    assert budget.used == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.booleans())))
def test_the_budget_is_the_sum_of_its_shares(steps: list[tuple[int, int, bool]]) -> None:
    budget = Budget(total_max=300, share_max=120)
    shares = [budget.open_share() for _ in range(4)]
    for index, amount, is_taking in steps:
        share = shares[index]
        if is_taking:
            share.take(min(amount, share.room))
        else:
            share.give(min(amount, share.used))
        assert budget.used == sum(share.used for share in shares) <= budget.total_max
        assert all(share.used <= 120 for share in shares)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-50, 50)), max_size=60), st.booleans())
def test_parts_of_a_share_count_together_and_leave_each_other_alone(
    changes: list[tuple[int, int]], close_one: bool
) -> None:
    budget = Budget(total_max=1_000, share_max=300)
    whole = budget.open_share()
    parts = [whole.open_part() for _ in range(3)]
    for index, amount in changes:
        part = parts[index]
        if amount >= 0:
            part.take(min(amount, part.room))
        else:
            part.give(min(-amount, part.used))
        assert whole.used == budget.used == sum(one.used for one in parts) <= 300
        assert len({one.room for one in parts}) == 1
    if close_one:
        parts[0].close()
        assert whole.used == budget.used == parts[1].used + parts[2].used


def test_a_peer_has_one_share_for_all_its_connections_and_gives_it_back() -> None:
    shares = Shares(1_000_000)
    peer_id, other = (Identity.generate().peer_id for _ in range(2))
    first, second = shares.of(peer_id), shares.of(peer_id)
    assert first is second
    assert shares.of(other) is not first
    connections = [first.unread.open_part() for _ in range(8)]
    for part in connections:
        part.take(part.room)
    # Eight connections hold no more than one could.
    assert first.unread.used == 500_000
    assert shares.of(other).unread.room > 0
    for part in connections:
        part.close()
    assert first.unread.used == 0
    del first, second
    gc.collect()
    assert len(shares._of) == 0
