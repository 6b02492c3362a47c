"""The aggregator's rules: who is in a round, once, and when it is closed."""

from averaging.homomorphic.gathering import Gathering
from p2p import PeerId

ALICE, BOB, CAROL, DAVE = (PeerId(name) for name in ("alice", "bob", "carol", "dave"))


def gathering() -> Gathering:
    return Gathering((ALICE, BOB, CAROL), round_s=10.0)


def test_a_round_is_complete_when_all_have_delivered() -> None:
    rounds = gathering()
    assert rounds.deadline_s is None
    for number, member in enumerate((CAROL, ALICE, BOB)):
        assert rounds.admit(member, 4, 100.0 + number) is None
    assert rounds.deadline_s == 110.0
    assert [rounds.on_delivered(member, 4) for member in (ALICE, CAROL)] == [True, True]
    assert not rounds.is_complete
    assert rounds.on_delivered(BOB, 4)
    assert rounds.is_complete
    assert rounds.included == (0, 1, 2)


def test_strangers_repeats_and_other_rounds_are_refused() -> None:
    rounds = gathering()
    assert rounds.admit(DAVE, 4, 0.0) == "not a member of this group"
    assert rounds.deadline_s is None
    assert rounds.admit(ALICE, 4, 0.0) is None
    assert rounds.admit(ALICE, 4, 1.0) == "already in round 4"
    assert rounds.admit(BOB, 5, 1.0) == "round 4 is under way, not 5"
    assert rounds.on_delivered(ALICE, 4)
    assert rounds.admit(ALICE, 4, 1.0) == "already in round 4"
    rounds.close()
    assert rounds.admit(BOB, 4, 2.0) == "round 4 is over; the last was 4"
    assert rounds.admit(BOB, 3, 2.0) == "round 3 is over; the last was 4"
    assert rounds.admit(BOB, 5, 2.0) is None


def test_nobody_waits_for_the_lost() -> None:
    rounds = gathering()
    for member in (ALICE, BOB, CAROL):
        rounds.admit(member, 0, 0.0)
    rounds.on_delivered(ALICE, 0)
    rounds.on_lost(ALICE, 0)
    rounds.on_lost(BOB, 0)
    rounds.on_lost(CAROL, 7)
    assert not rounds.is_complete
    rounds.on_lost(CAROL, 0)
    assert rounds.is_complete
    assert rounds.included == (0,)


def test_what_comes_after_the_end_is_in_no_sum() -> None:
    rounds = gathering()
    rounds.admit(ALICE, 0, 0.0)
    rounds.admit(BOB, 0, 0.0)
    rounds.on_delivered(ALICE, 0)
    rounds.close()
    assert not rounds.on_delivered(BOB, 0)
    assert rounds.included == (0,)
    rounds.admit(CAROL, 1, 20.0)
    assert not rounds.on_delivered(BOB, 0)
    assert rounds.included == ()
