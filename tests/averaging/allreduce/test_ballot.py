"""The ballot, checked as a model: many members, any order of messages, any loss, no network.

Each schedule is made from one seed: spans come or not, members crash, links are cut, questions
and votes are delayed or lost, aggregators may even lie. Whatever happens: a voter signs once, no
two members succeed with different bits, and nobody succeeds after a blocking set has promised.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.allreduce.ballot import Ballot
from averaging.allreduce.outputs import (
    End,
    FetchPiece,
    Hold,
    SendCommit,
    SendVote,
    Stand,
)
from averaging.allreduce.schema import Answer, Commit, PieceStatus, Plan, Vote
from averaging.matchmaking.group import quorum_reached
from tests.averaging.allreduce.ballot_world import PIECES_PER_SPAN, World

SIZES = st.integers(1, 7).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n)).flatmap(
        # Auxiliary members come first here, the worst place: they would collect the votes.
        lambda sizes: st.tuples(
            st.just(sizes[0]), st.just(sizes[1]), st.integers(0, min(2, sizes[1], n - 1))
        )
    )
)
Sizes = tuple[int, int, int]


@given(st.integers(0, 2**32), SIZES)
def test_without_faults_all_succeed_with_the_same_bits(seed: int, sizes: Sizes) -> None:
    world = World(random.Random(seed), *sizes)
    world.run()
    world.check()
    assert [end.outcome for end in world.ends()] == ["success"] * sizes[0]
    assert all(ballot.plan is None for ballot in world.ballots.values())


@settings(max_examples=80)
@given(st.integers(0, 2**32), SIZES)
def test_after_one_crash_all_survivors_succeed(seed: int, sizes: Sizes) -> None:
    """But for groups whose survivors are no quorum, or have no aggregator left."""
    rng = random.Random(seed)
    world = World(rng, *sizes)
    for _ in range(rng.randint(0, 25)):
        world.step()
    victim = rng.randrange(sizes[0])
    world.crash(victim)
    world.run()
    world.check()
    survivors = [voter for voter in world.voters if voter != victim]
    if quorum_reached(world.voters, survivors) and (victim != 0 or sizes[1] > 1):
        assert {end.outcome for end in world.ends()} == {"success"}


def misfortune(world: World, rng: random.Random) -> None:
    """Something goes wrong, or gets well again."""
    one, other = rng.randrange(world.member_count), rng.randrange(world.member_count)
    what = rng.randrange(4)
    if what == 0:
        world.crash(one)
    elif what == 1 and one != other:
        world.cut_link(one, other)
    elif what == 2:
        world.give_up(one)
    elif what == 3:
        world.cut.clear()


@pytest.mark.slow
@settings(max_examples=150)
@given(st.integers(0, 2**32), SIZES, st.booleans())
def test_no_schedule_breaks_the_promises(seed: int, sizes: Sizes, lies: bool) -> None:
    rng = random.Random(seed)
    liars = frozenset(p for p in range(sizes[1]) if lies and rng.random() < 0.3)
    world = World(rng, *sizes, liars=liars, loss=rng.choice([0, 0, 0.1, 0.5]))
    for _ in range(rng.randint(0, 6)):
        for _ in range(rng.randint(0, 15)):
            world.step()
        misfortune(world, rng)
    world.run()
    world.check()


def ballot_of_three(me: int = 0) -> Ballot[int]:
    return World(random.Random(0), 3, 3).ballots[me]


def hold_all(ballot: Ballot[int]) -> Vote:
    for piece in range(3 * PIECES_PER_SPAN):
        ballot.on_piece(piece, bytes(32), 0.0)
    return Vote((bytes(32),) * 3 * PIECES_PER_SPAN, bytes(64))


def test_a_vote_is_sent_to_the_next_coordinator_when_one_is_lost() -> None:
    ballot = ballot_of_three(me=2)
    hold_all(ballot)
    (first,) = ballot.next_actions()
    assert isinstance(first, SendVote)
    ballot.on_suspect(0, 0.0)
    (second,) = (action for action in ballot.next_actions() if isinstance(action, SendVote))
    assert (first.peer, second.peer) == (0, 1)
    assert first.vote == second.vote


def test_a_late_vote_is_answered_with_the_certificate() -> None:
    ballot = ballot_of_three()
    vote = hold_all(ballot)
    ballot.on_vote(1, vote, 0.0)
    actions = ballot.next_actions()
    assert [type(action) for action in actions] == [SendCommit, End]
    ballot.on_vote(2, vote, 1.0)
    (late,) = ballot.next_actions()
    assert isinstance(late, SendCommit)
    assert late.peers == (2,)


def test_an_abort_is_ignored_by_who_voted() -> None:
    ballot = ballot_of_three(me=1)
    hold_all(ballot)
    ballot.on_abort("nobody contributed")
    assert ballot.end is None
    other = ballot_of_three(me=1)
    other.on_abort("nobody contributed")
    assert other.end == End("failed", True, "nobody contributed", hopeless=True)
    assert other.stand is Stand.ABANDONED


def test_an_abort_is_ignored_by_who_knows_of_a_certificate() -> None:
    ballot = ballot_of_three(me=2)
    ballot.on_commit(Commit((bytes(32),) * 3 * PIECES_PER_SPAN, (0, 1), (bytes(64),) * 2), 0.0)
    ballot.on_abort("nobody contributed")
    assert ballot.end is None
    for piece in range(3 * PIECES_PER_SPAN):
        ballot.on_piece(piece, bytes(32), 1.0)
    assert ballot.end == End("success", True, "")


@pytest.mark.parametrize("voted", [False, True])
def test_giving_up_is_undecided_only_after_voting(voted: bool) -> None:
    ballot = ballot_of_three(me=1)
    if voted:
        hold_all(ballot)
    ballot.on_give_up("deadline")
    assert ballot.end == End("undecided" if voted else "failed", False, "deadline")
    assert ballot.stand is (Stand.VOTED if voted else Stand.ABANDONED)


def test_two_votes_of_one_voter_prove_that_it_lies() -> None:
    ballot = ballot_of_three()
    ballot.on_vote(1, Vote((bytes(32),) * 6, bytes(64)), 0.0)
    ballot.on_vote(1, Vote((bytes(31) + b"\1",) * 6, bytes(64)), 0.0)
    assert ballot.liars == (1,)
    assert ballot.lost == (1,)


def test_who_gave_up_follows_plans_but_never_votes() -> None:
    ballot = ballot_of_three(me=1)
    ballot.on_give_up("cancelled")
    ended = ballot_of_three(me=2)
    ended.on_suspect(0, 0.0)
    ended.next_actions()
    for peer in (0, 1):
        ended.on_no_answer(peer, 0.5)
    assert ended.stand is Stand.ABANDONED
    assert ended.end is None
    assert ended.answer().open
    plan = Plan(256, (2, 2, 1, 1, 2, 2), bytes(64))
    ended.on_plan(plan, 1.0)
    assert ended.plan == plan
    hold_all(ended)
    assert ended.vote is None
    # Whoever ended altogether follows nothing.
    ballot.on_plan(plan, 1.0)
    assert ballot.plan is None


def test_pieces_planned_for_one_that_had_voted_are_fetched_from_it() -> None:
    ballot = ballot_of_three(me=1)
    plan = Plan(256 + 1, (2, 2, 1, 1, 2, 2), bytes(64))
    ballot.on_plan(plan, 0.0)
    ballot.next_actions()
    held = PieceStatus(int(Hold.HELD), bytes(32))
    voted = Answer((held,) * 6, Vote((bytes(32),) * 6, bytes(64)))
    ballot.on_answer(2, voted, 0.1)
    fetched = [action for action in ballot.next_actions() if isinstance(action, FetchPiece)]
    assert [action.piece for action in fetched] == [0, 1, 4, 5]


def test_an_aggregator_to_which_nobody_contributes_plans_its_pieces_for_others() -> None:
    ballot = ballot_of_three(me=0)
    coming = Answer((PieceStatus(int(Hold.LOST)),) * 6, open=True)
    ballot.on_suspect(0, 0.0)
    for peer in (1, 2):
        ballot.on_answer(peer, coming, 0.1)
    assert ballot.plan is not None
    assert ballot.holdings.owners == (1, 2, 1, 1, 2, 2)


def waiting_for_the_plan_of_another() -> Ballot[int]:
    """The last of four lacks what the first owns, nobody has it, and two are to plan before."""
    ballot = World(random.Random(0), 4, 4).ballots[3]
    for piece in range(PIECES_PER_SPAN, 4 * PIECES_PER_SPAN):
        ballot.on_piece(piece, bytes(32), 0.0)
    ballot.on_suspect(0, 0.0, silent=True)
    for peer in (1, 2):
        ballot.on_answer(peer, Answer((PieceStatus(int(Hold.LOST)),) * 4 * PIECES_PER_SPAN), 0.0)
    return ballot


def wake(ballot: Ballot[int], until_s: float) -> None:
    """Let the ballot's timer wake it; nobody answers what it asks."""
    while (due_s := ballot.deadline_s) is not None and due_s <= until_s:
        ballot.on_deadline(due_s)
        assert ballot.deadline_s is None or ballot.deadline_s > due_s, "its timer stays in the past"


def test_who_waits_for_the_plan_of_another_plans_when_its_turn_has_come() -> None:
    ballot = waiting_for_the_plan_of_another()
    wake(ballot, 1.9)
    assert ballot.plan is None
    wake(ballot, 2.1)
    assert ballot.plan is not None


def test_a_piece_that_comes_from_its_suspect_after_all_ends_the_wait_for_a_plan() -> None:
    ballot = waiting_for_the_plan_of_another()
    for piece in range(PIECES_PER_SPAN):
        ballot.on_piece(piece, bytes(32), 1.5)
    assert ballot.stand is Stand.VOTED
    wake(ballot, 30.0)
    assert ballot.plan is None


def test_a_certificate_ends_the_wait_for_a_plan() -> None:
    ballot = waiting_for_the_plan_of_another()
    agreed = (bytes(32),) * 4 * PIECES_PER_SPAN
    ballot.on_commit(Commit(agreed, (0, 1, 2), (bytes(64),) * 3), 1.5)
    assert ballot.end is None
    wake(ballot, 30.0)
    assert ballot.plan is None


def test_who_found_all_holders_too_slow_fetches_from_them_what_is_agreed() -> None:
    ballot = World(random.Random(0), 4, 4).ballots[3]
    own = range(3 * PIECES_PER_SPAN, 4 * PIECES_PER_SPAN)
    for piece in own:
        ballot.on_piece(piece, bytes(32), 0.0)
    for peer in range(3):
        ballot.on_suspect(peer, 10.0, slow=True)
    agreed = (bytes(32),) * 4 * PIECES_PER_SPAN
    commit = Commit(agreed, (0, 1, 2), (bytes(64),) * 3)
    held = PieceStatus(int(Hold.HELD), bytes(32))
    for peer in (0, 1):
        ballot.on_answer(peer, Answer((held,) * 4 * PIECES_PER_SPAN, commit=commit), 11.0)
    fetched = [action for action in ballot.next_actions() if isinstance(action, FetchPiece)]
    assert {action.peer for action in fetched} <= {0, 1}
    for action in fetched:
        ballot.on_piece(action.piece, bytes(32), 20.0)
    assert ballot.end is not None
    assert ballot.end.outcome == "success"


AGREED = (bytes(32),) * 4 * PIECES_PER_SPAN
LET_GO = Answer((PieceStatus(int(Hold.LOST)),) * len(AGREED), Vote(AGREED, bytes(64)))
NEVER_HELD = Answer((PieceStatus(int(Hold.LOST)),) * len(AGREED))


def lacking_what_is_agreed() -> Ballot[int]:
    """The last of four knows of a certificate, but its own pieces are all that it holds."""
    ballot = World(random.Random(0), 4, 4).ballots[3]
    for piece in range(3 * PIECES_PER_SPAN, 4 * PIECES_PER_SPAN):
        ballot.on_piece(piece, bytes(32), 0.0)
    for peer in range(3):
        ballot.on_suspect(peer, 1.0)
    ballot.on_commit(Commit(AGREED, (0, 1, 2), (bytes(64),) * 3), 1.0)
    return ballot


def ended(ballot: Ballot[int]) -> End | None:
    """How the ballot has ended by now; a type checker thinks that its attribute stays None."""
    return ballot.end


def test_who_comes_for_what_all_have_let_go_is_behind_at_once() -> None:
    ballot = lacking_what_is_agreed()
    ballot.on_answer(0, LET_GO, 1.1)
    ballot.on_no_answer(1, 1.1)
    assert ended(ballot) is None, "the last may yet have it"
    ballot.on_answer(2, NEVER_HELD, 1.2)
    reason = "the others agreed on a result, and who held it has let it go"
    assert ended(ballot) == End("failed", False, reason)


def test_who_lacks_what_only_one_out_of_reach_holds_waits_for_it() -> None:
    ballot = lacking_what_is_agreed()
    ballot.on_no_answer(0, 1.1)
    ballot.on_no_answer(1, 1.1)
    ballot.on_answer(2, NEVER_HELD, 1.2)
    assert ended(ballot) is None
    held = Answer((PieceStatus(int(Hold.HELD), bytes(32)),) * len(AGREED), LET_GO.vote)
    ballot.on_answer(0, held, 5.0)
    for action in ballot.next_actions():
        if isinstance(action, FetchPiece):
            ballot.on_piece(action.piece, bytes(32), 5.1)
    assert ballot.end == End("success", True, "")
