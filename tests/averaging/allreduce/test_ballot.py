"""The ballot, checked as a model: many members, any order of messages, any loss, no network.

Each schedule is made from one seed: spans come or not, members crash, links are cut, questions
and votes are delayed or lost, aggregators may even lie. Whatever happens: a voter signs once, no
two members succeed with different bits, and nobody succeeds after a blocking set has promised.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.allreduce.ballot import Ballot
from averaging.allreduce.config import BallotTimes
from averaging.allreduce.manifest import Signing
from averaging.allreduce.outputs import (
    Ask,
    End,
    FetchPiece,
    Follow,
    SendCommit,
    SendVote,
    Stand,
)
from averaging.allreduce.schema import Plan, Promise, Vote
from averaging.matchmaking.group import quorum_reached

GIVE_UP_S = 20.0
PIECES_PER_SPAN = 2


@dataclass
class World:
    """Members of one group and everything that is on its way between them.

    A piece's digest names its owner, the plan, and who lied to whom: two members hold the same
    bits of it only if the same owner reduced it for the same plan.
    """

    rng: random.Random
    member_count: int
    aggregator_count: int
    helper_count: int = 0
    liars: frozenset[int] = frozenset()
    loss: float = 0.0
    now_s: float = 0.0
    crashed: set[int] = field(default_factory=set)
    cut: set[frozenset[int]] = field(default_factory=set)
    deliveries: list[Callable[[], None]] = field(default_factory=list)
    signed: dict[int, int] = field(default_factory=dict)
    success_bits: set[tuple[bytes, ...]] = field(default_factory=set)
    failed_for_certain: bool = False

    def __post_init__(self) -> None:
        members = range(self.member_count)
        self.helpers = range(self.helper_count)
        self.voters = tuple(me for me in members if me not in self.helpers)
        self.piece_count = self.aggregator_count * PIECES_PER_SPAN
        self.ballots = {me: self._ballot(me) for me in members}
        # What each aggregator still has to tell each member, in order: pieces, or its loss.
        self.streams: dict[tuple[int, int], list[object]] = {
            (owner, to): (
                [(owner * PIECES_PER_SPAN + k, 0) for k in range(PIECES_PER_SPAN)]
                if owner == to or to not in self.helpers
                else []
            )
            for owner in range(self.aggregator_count)
            for to in members
        }
        self.done: dict[tuple[int, int], None] = {}

    def _ballot(self, me: int) -> Ballot[int]:
        def sign_vote(pieces: tuple[bytes, ...]) -> Vote:
            self.signed[me] = self.signed.get(me, 0) + 1
            return Vote(pieces, bytes([me]) * 64)

        members = range(self.member_count)
        return Ballot(
            me=me,
            members=members,
            voters=self.voters,
            aggregators=range(self.aggregator_count),
            owners=[k // PIECES_PER_SPAN for k in range(self.piece_count)],
            askable=members if me < self.aggregator_count else range(self.aggregator_count),
            signing=Signing(
                vote=sign_vote,
                promise=lambda: Promise(me, bytes([me]) * 64),
                plan=lambda number, owners: Plan(number, tuple(owners), bytes([me]) * 64),
            ),
            quorum_reached=quorum_reached,
            times=BallotTimes(),
        )

    def digest(self, piece: int, owner: int, plan: int, to: int) -> bytes:
        lie = to % 2 if owner in self.liars and owner != to else 0
        return bytes([piece % 256, owner, plan // 256, plan % 256, lie, 0, 0, 0]) * 4

    def connected(self, one: int, other: int) -> bool:
        return (
            one not in self.crashed
            and other not in self.crashed
            and frozenset((one, other)) not in self.cut
        )

    def arrives(self, one: int, other: int) -> bool:
        return self.connected(one, other) and self.rng.random() >= self.loss

    # --- what happens ---------------------------------------------------------------------

    def next_from_stream(self, owner: int, to: int) -> None:
        waiting = self.streams[owner, to]
        if not waiting or to in self.crashed:
            return
        what, ballot = waiting.pop(0), self.ballots[to]
        if isinstance(what, tuple):
            piece, plan = what
            if ballot.holdings.owners[piece] == owner:
                ballot.on_piece(piece, self.digest(piece, owner, plan, to), self.now_s)
        elif isinstance(what, Plan):
            ballot.on_plan(what, self.now_s)
        else:
            ballot.on_suspect(owner, self.now_s, silent=what == "silent")
        self.act(to)

    def lose_stream(self, owner: int, to: int, how: str) -> None:
        if owner != to:
            if self.rng.random() < 0.5:
                self.streams[owner, to].clear()
            self.streams[owner, to].append(how)

    def crash(self, peer: int) -> None:
        self.crashed.add(peer)
        for owner, to in self.streams:
            if peer in (owner, to) and peer != to:
                self.lose_stream(owner, to, "broken")

    def cut_link(self, one: int, other: int) -> None:
        self.cut.add(frozenset((one, other)))
        for owner, to in self.streams:
            if {owner, to} == {one, other}:
                self.lose_stream(owner, to, "silent")

    def give_up(self, peer: int) -> None:
        self.ballots[peer].on_give_up("deadline")
        self.act(peer)

    def act(self, me: int) -> None:
        """Carry out what the ballot wants, after a while, and check what it claims."""
        ballot = self.ballots[me]
        for action in ballot.next_actions():
            match action:
                case Ask(peer=peer):
                    self.later(lambda peer=peer: self.ask(me, peer))
                case FetchPiece(peer=peer, piece=piece, digest=digest):
                    self.later(
                        lambda peer=peer, piece=piece, digest=digest: self.fetch(
                            me, peer, piece, digest
                        )
                    )
                case Follow(plan=plan, changed=changed):
                    self.follow(me, plan, changed)
                case SendVote(peer=peer, vote=vote):
                    self.later(lambda peer=peer, vote=vote: self.bring_vote(me, peer, vote))
                case SendCommit(peers=peers, commit=commit):
                    assert not self.failed_for_certain, "a certificate after a certain failure"
                    for peer in peers:
                        self.later(
                            lambda peer=peer, commit=commit: self.bring_commit(me, peer, commit)
                        )
                case End(outcome="success"):
                    assert ballot.commit is not None
                    assert not self.failed_for_certain, "a success after a certain failure"
                    self.success_bits.add(ballot.commit.pieces)
                case End(outcome="failed", certain=True):
                    assert not self.success_bits, "a certain failure after a success"
                    self.failed_for_certain = True

    def later(self, deliver: Callable[[], None]) -> None:
        self.deliveries.append(deliver)

    def follow(self, me: int, plan: Plan, changed: tuple[int, ...]) -> None:
        """A plan goes over the streams that are well; new owners reduce when all that do send."""
        for other in range(self.member_count):
            linked = me < self.aggregator_count or other < self.aggregator_count
            if other != me and linked and self.connected(me, other):
                self.later(lambda other=other: self.bring_plan(me, other, plan))
        for piece in changed:
            if plan.owners[piece] == me:
                self.later(lambda piece=piece: self.reduce(me, piece, plan))

    def bring_plan(self, me: int, other: int, plan: Plan) -> None:
        if self.arrives(me, other):
            self.ballots[other].on_plan(plan, self.now_s)
            self.act(other)

    def reduce(self, me: int, piece: int, plan: Plan) -> None:
        if me in self.crashed or self.ballots[me].plan != plan or (piece, plan.number) in self.done:
            return
        self.done[piece, plan.number] = None
        for to in range(self.member_count):
            if to == me or (to not in self.helpers and self.connected(me, to)):
                # On the stream the plan goes before what it makes the owner send.
                self.streams[me, to].extend([plan, (piece, plan.number)])

    def ask(self, me: int, peer: int) -> None:
        asking, asked = self.ballots[me], self.ballots[peer]
        promise, plan = asking.promise, asking.plan
        if not self.arrives(me, peer):
            self.later(lambda: self.no_answer(me, peer))
            return
        asked.on_asked(me, self.now_s, promise=promise, plan=plan)
        answer = asked.answer(gone=asked.end is not None and not asked.end.certain)
        self.act(peer)

        def bring() -> None:
            if me in self.crashed:
                return
            if self.arrives(peer, me):
                asking.on_answer(peer, answer, self.now_s)
                self.act(me)
            else:
                self.no_answer(me, peer)

        self.later(bring)

    def no_answer(self, me: int, peer: int) -> None:
        if me not in self.crashed:
            self.ballots[me].on_no_answer(peer, self.now_s)
            self.act(me)

    def fetch(self, me: int, peer: int, piece: int, digest: bytes) -> None:
        if me in self.crashed:
            return
        status = self.ballots[peer].answer().pieces[piece]
        if self.arrives(peer, me) and status.digest == digest:
            self.ballots[me].on_piece(piece, digest, self.now_s)
        else:
            self.ballots[me].on_fetch_failed(peer, piece, self.now_s)
        self.act(me)

    def bring_vote(self, me: int, peer: int, vote: Vote) -> None:
        if self.arrives(me, peer):
            self.ballots[peer].on_vote(me, vote, self.now_s)
            self.act(peer)

    def bring_commit(self, me: int, peer: int, commit: object) -> None:
        if self.arrives(me, peer):
            self.ballots[peer].on_commit(commit, self.now_s)  # type: ignore[arg-type]
            self.act(peer)

    # --- the run --------------------------------------------------------------------------

    def step(self) -> None:
        """One random thing that is on its way arrives, or time passes."""
        open_streams = [key for key, waiting in self.streams.items() if waiting]
        choice = self.rng.randrange(len(open_streams) + len(self.deliveries) + 1)
        if choice < len(open_streams):
            self.next_from_stream(*open_streams[choice])
        elif choice < len(open_streams) + len(self.deliveries):
            self.deliveries.pop(choice - len(open_streams))()
        else:
            self.pass_time()

    def pass_time(self) -> None:
        self.now_s += self.rng.choice([0.01, 0.2, 1.0])
        for me, ballot in self.ballots.items():
            due = ballot.deadline_s
            if me not in self.crashed and due is not None and due <= self.now_s:
                ballot.on_deadline(self.now_s)
                self.act(me)

    def run(self) -> None:
        while self.now_s < GIVE_UP_S and any(
            ballot.end is None for me, ballot in self.ballots.items() if me not in self.crashed
        ):
            self.step()
        for me, ballot in self.ballots.items():
            if me not in self.crashed and ballot.end is None:
                self.give_up(me)
        # Whatever is still under way arrives, and must not change the past.
        for _ in range(200):
            self.step()

    def check(self) -> None:
        assert all(count == 1 for count in self.signed.values())
        assert len(self.success_bits) <= 1
        for me, ballot in self.ballots.items():
            voted = ballot.vote is not None
            assert voted == (ballot.stand is Stand.VOTED)
            if me in self.voters:
                assert (ballot.promise is not None) == (ballot.stand is Stand.ABANDONED)
            if ballot.end is not None and ballot.end.outcome == "undecided":
                assert voted

    def ends(self) -> list[End]:
        return [
            ballot.end
            for me, ballot in self.ballots.items()
            if me not in self.crashed and ballot.end is not None
        ]


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


@settings(max_examples=300)
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


@settings(max_examples=600)
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
