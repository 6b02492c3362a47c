"""The coordinator's board: whose spans go to others, and when nobody waits for a slow owner."""

from __future__ import annotations

from averaging.secure.board import Board


def test_spans_of_the_lost_go_to_those_with_the_fewest() -> None:
    board = Board((0, 1, 2, 3), need=3)
    board.complete = [{0, 1}, {0, 1}, {0}, {1}]
    assert board.replan({1, 3}, None)
    assert board.owners == [0, 0, 2, 2]
    assert board.plan == 1
    # What came to the lost has to come again.
    assert board.complete == [{0, 1}, set(), {0}, set()]
    assert not board.replan({4}, None)
    assert board.plan == 1


def test_sums_that_everybody_holds_need_no_owner() -> None:
    board = Board((0, 1), need=3)
    board.holders = [{0}, {0, 2, 3}]
    assert not board.replan({1}, [0, 2, 3])
    assert board.owners == [0, 1]
    # One that somebody lacks is made anew, and with it all others of the lost.
    assert board.replan({1}, [0, 2, 3, 4])
    assert board.owners == [0, 0]
    assert board.holders == [set(), set()]


def test_a_slow_owner_is_seen_when_most_spans_are_done() -> None:
    board = Board((0, 1, 2), need=3)
    gathered = [{0, 1, 2}, {0, 1, 2}, {2}]
    assert board.mostly(gathered)
    assert board.slow_owners(gathered) == [2]
    assert not board.mostly([{0, 1, 2}, {0}, {2}])
