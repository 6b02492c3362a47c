"""Budgets: greedy sharers leave room to others, and what is given back is there again."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.budget import Budget, Share


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
