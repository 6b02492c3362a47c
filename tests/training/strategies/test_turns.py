"""Whose turn it is: alike at all, and passed on where one is gone."""

from __future__ import annotations

import pytest

from training.strategies.turns import Lottery, Turns, check_fraction

PEERS = [f"peer{index}" for index in range(6)]


def test_without_a_lottery_it_is_everybodys_turn() -> None:
    turns = Turns("peer0", None)
    turns.on_peers(PEERS)
    turns.on_interval(3)
    assert (turns.mine, turns.trainers) == (True, 6)


def test_those_who_are_drawn_agree_on_it() -> None:
    lottery = Lottery(fraction=0.5, seed=1)
    all_turns = {peer: Turns(peer, lottery) for peer in PEERS}
    for number in range(20):
        for turns in all_turns.values():
            turns.on_peers(PEERS)
            turns.on_interval(number)
        mine = {peer for peer, turns in all_turns.items() if turns.mine}
        assert mine == set(lottery.drawn(number, PEERS))
        assert {turns.trainers for turns in all_turns.values()} == {3}


def test_the_next_is_drawn_for_one_who_is_gone() -> None:
    lottery = Lottery(fraction=0.5, seed=1)
    first, *_ = lottery.drawn(0, PEERS)
    left = [peer for peer in PEERS if peer != first]
    all_turns = {peer: Turns(peer, lottery) for peer in left}
    for turns in all_turns.values():
        turns.on_interval(0)
        turns.on_peers(left)
    mine = [peer for peer, turns in all_turns.items() if turns.mine]
    assert len(mine) == 3
    assert set(lottery.drawn(0, PEERS)) - {first} < set(mine)


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_a_fraction_is_a_part(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must be above 0"):
        check_fraction(fraction)
