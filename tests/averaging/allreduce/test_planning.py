"""Planning: one member at a time gives lost pieces to those that are there, or nobody can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.holdings import Holdings
from averaging.allreduce.planning import Planning
from averaging.allreduce.schema import MEMBERS_MAX, PLAN_ROUNDS_MAX, Plan
from averaging.matchmaking.group import quorum_reached

# Group order: an auxiliary member, two that average, a client, and one more that averages.
MEMBERS = ("helper", "alice", "bob", "client", "carol")
VOTERS = ("alice", "bob", "client", "carol")
AGGREGATORS = ("helper", "alice", "bob", "carol")
PATIENCE_S = 1.0


@dataclass
class Seen:
    """How one member sees the group."""

    me: str
    lost: Collection[str] = ()
    unreachable: Collection[str] = ()
    """Not lost for certain, but neither known to be there."""
    promised: Collection[str] = ()
    holdings: Holdings[str] = field(
        default_factory=lambda: Holdings((0, 1, 1, 2, 3, 3), AGGREGATORS)
    )
    planning: Planning[str] = field(init=False)

    def __post_init__(self) -> None:
        self.planning = Planning(self.me, MEMBERS, VOTERS, AGGREGATORS, quorum_reached, PATIENCE_S)
        for peer in self.lost:
            self.holdings.on_suspect(peer)

    def nowhere(
        self, now_s: float, pieces: Sequence[int] = (1, 2)
    ) -> tuple[int, tuple[int, ...]] | None:
        return self.planning.on_nowhere(
            pieces,
            self.holdings,
            reachable=lambda peer: peer not in self.unreachable,
            lost=lambda peer: peer in self.lost,
            promised=self.promised,
            now_s=now_s,
        )


def test_the_first_voter_that_averages_plans_at_once() -> None:
    alice = Seen("alice", lost=("bob",))
    plan = alice.nowhere(5.0, pieces=(3,))
    assert plan is not None
    number, owners = plan
    assert number == MEMBERS_MAX + MEMBERS.index("alice")
    assert owners == (0, 1, 1, 0, 3, 3)


def test_pieces_go_in_turns_to_those_that_are_there() -> None:
    bob = Seen("bob", lost=("alice",), unreachable=("carol",))
    plan = bob.nowhere(5.0)
    assert plan is not None
    # The helper and bob himself; carol has not answered yet.
    assert plan[1] == (0, 0, 2, 2, 3, 3)


def test_a_suspected_aggregator_gets_nothing_though_it_answers() -> None:
    """Our stream to it is gone, so we could not send it our parts."""
    alice = Seen("alice", lost=("bob",))
    alice.holdings.on_suspect("helper")
    alice.lost = ("bob",)
    plan = alice.nowhere(0.0, pieces=(0, 3, 3))
    assert plan is not None
    assert set(plan[1]) == {1, 3}


@pytest.mark.parametrize(
    ("me", "lost", "turn"),
    [
        ("bob", ("alice",), 0),
        ("carol", ("alice",), 1),
        ("bob", ("carol",), 1),
        ("carol", (), 2),
        # Clients come after all that average, though they be before them in the group.
        ("client", ("alice",), 2),
        ("client", (), 3),
    ],
)
def test_the_others_wait_for_their_turn(me: str, lost: tuple[str, ...], turn: int) -> None:
    seen = Seen(me, lost=lost)
    for now_s in (10.0, 10.0 + turn - 0.1):
        if turn:
            assert seen.nowhere(now_s) is None
            assert seen.planning.possible
            assert seen.planning.turn_at_s == 10.0 + turn
    plan = seen.nowhere(10.0 + turn)
    assert plan is not None
    assert plan[0] == MEMBERS_MAX + MEMBERS.index(me)


def test_the_wait_begins_anew_when_there_was_hope() -> None:
    carol = Seen("carol", lost=("alice",))
    assert carol.nowhere(0.0) is None
    carol.planning.on_hope()
    assert carol.planning.turn_at_s is None
    assert carol.nowhere(1.5) is None
    assert carol.planning.turn_at_s == 2.5
    assert carol.nowhere(2.5) is not None


def test_a_turn_comes_sooner_when_an_earlier_planner_is_lost_too() -> None:
    carol = Seen("carol", lost=("alice",))
    assert carol.nowhere(0.0) is None
    carol.lost = ("alice", "client")
    carol.promised = ("bob",)
    # Two of four voters without the first one are no quorum.
    assert carol.nowhere(0.1) is None
    assert not carol.planning.possible
    carol.lost, carol.promised = ("alice",), ("bob",)
    assert carol.nowhere(0.2) is None
    assert not carol.planning.possible
    carol.promised, carol.lost = (), ("bob",)
    carol.holdings.on_suspect("bob")
    assert carol.nowhere(0.3) is None
    assert carol.planning.possible
    assert carol.planning.turn_at_s == 1.3


@pytest.mark.parametrize(
    ("lost", "promised", "possible"),
    [
        ((), (), True),
        (("carol",), ("client",), True),
        (("carol", "client"), ("bob",), False),
        ((), ("bob", "client", "carol"), False),
        # Auxiliary members do not count for the quorum.
        (("helper", "carol"), (), True),
        (("bob", "carol", "client"), (), False),
    ],
)
def test_without_a_quorum_no_plan_helps(
    lost: tuple[str, ...], promised: tuple[str, ...], possible: bool
) -> None:
    alice = Seen("alice", lost=lost, promised=promised)
    plan = alice.nowhere(0.0)
    assert (plan is not None) == possible
    assert alice.planning.possible == possible
    if not possible:
        assert alice.planning.turn_at_s is None


def test_clients_alone_can_give_the_work_to_nobody() -> None:
    client = Seen("client", unreachable=("helper", "alice", "bob", "carol"))
    assert client.nowhere(0.0) is None
    assert not client.planning.possible


def test_each_plan_is_newer_than_the_one_before() -> None:
    alice = Seen("alice", lost=("bob",))
    alice.holdings.on_plan(Plan(3 * MEMBERS_MAX + 4, (0, 1, 1, 3, 3, 3), bytes(64)))
    plan = alice.nowhere(0.0, pieces=(4,))
    assert plan == (4 * MEMBERS_MAX + 1, (0, 1, 1, 3, 0, 3))


def test_there_is_an_end_to_planning() -> None:
    alice = Seen("alice", lost=("bob",))
    rounds = PLAN_ROUNDS_MAX - 1
    alice.holdings.on_plan(Plan(rounds * MEMBERS_MAX, (0, 1, 1, 3, 3, 3), bytes(64)))
    plan = alice.nowhere(0.0)
    assert plan is not None
    alice.holdings.on_plan(Plan(plan[0], plan[1], bytes(64)))
    assert alice.nowhere(0.0) is None
    assert not alice.planning.possible


@given(
    st.sets(st.sampled_from(MEMBERS)),
    st.sets(st.sampled_from(MEMBERS)),
    st.sets(st.sampled_from(VOTERS)),
    st.sets(st.integers(0, 5), min_size=1),
    st.sampled_from(VOTERS),
)
def test_a_plan_changes_the_lost_pieces_only_and_names_only_who_is_there(
    lost: set[str], unreachable: set[str], promised: set[str], pieces: set[int], me: str
) -> None:
    lost, promised = lost - {me}, promised - {me}
    seen = Seen(me, sorted(lost), sorted(unreachable - {me}), sorted(promised))
    before = seen.holdings.owners
    first = seen.nowhere(0.0, sorted(pieces))
    alive = [peer for peer in VOTERS if peer not in lost and peer not in promised]
    there = [
        owner
        for owner, peer in enumerate(AGGREGATORS)
        if peer not in lost and (peer == me or peer not in unreachable)
    ]
    assert seen.planning.possible == (quorum_reached(VOTERS, alive) and bool(there))
    # Everyone's turn comes, if nobody else is heard of.
    plan = first or seen.nowhere(len(VOTERS) * PATIENCE_S, sorted(pieces))
    assert (plan is not None) == seen.planning.possible
    if plan is None:
        return
    for piece, owner in enumerate(plan[1]):
        assert owner in there if piece in pieces else owner == before[piece]
    shares = [sum(plan[1][piece] == owner for piece in pieces) for owner in there]
    assert max(shares) - min(shares) <= 1
