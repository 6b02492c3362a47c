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

from averaging.allreduce.ballot import Ballot, BallotTimes
from averaging.allreduce.outputs import Ask, End, FetchSpan, SendCommit, SendVote, Stand
from averaging.allreduce.schema import Promise, Vote
from averaging.matchmaking.group import blocking, quorum_reached

GIVE_UP_S = 20.0


@dataclass
class World:
    """Members of one group and everything that is on its way between them."""

    rng: random.Random
    member_count: int
    aggregator_count: int
    liars: frozenset[int] = frozenset()
    loss: float = 0.0
    now_s: float = 0.0
    crashed: set[int] = field(default_factory=set)
    cut: set[frozenset[int]] = field(default_factory=set)
    deliveries: list[Callable[[], None]] = field(default_factory=list)
    signed: dict[int, int] = field(default_factory=dict)
    success_bits: set[tuple[bytes, ...]] = field(default_factory=set)
    blocked: bool = False

    def __post_init__(self) -> None:
        members = range(self.member_count)
        self.ballots = {me: self._ballot(me) for me in members}
        # What each aggregator still has to tell each member, in order: its span, or its loss.
        self.streams = {
            (owner, to): ["span"] for owner in range(self.aggregator_count) for to in members
        }

    def _ballot(self, me: int) -> Ballot[int]:
        def sign_vote(spans: tuple[bytes, ...]) -> Vote:
            self.signed[me] = self.signed.get(me, 0) + 1
            return Vote(spans, bytes([me]) * 64)

        members = range(self.member_count)
        return Ballot(
            me=me,
            members=members,
            aggregators=range(self.aggregator_count),
            askable=members if me < self.aggregator_count else range(self.aggregator_count),
            sign_vote=sign_vote,
            sign_promise=lambda: Promise(me, bytes([me]) * 64),
            quorum_reached=quorum_reached,  # type: ignore[arg-type]
            blocking=blocking,  # type: ignore[arg-type]
            times=BallotTimes(),
        )

    def digest(self, owner: int, to: int) -> bytes:
        lie = to % 2 if owner in self.liars else 0
        return bytes([owner, lie]) * 16

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
        what = waiting.pop(0)
        if what == "span":
            self.ballots[to].on_span(owner, self.digest(owner, to), self.now_s)
        else:
            self.ballots[to].on_suspect(owner, self.now_s, silent=what == "silent")
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
                case FetchSpan(peer=peer, owner=owner, digest=digest):
                    self.later(
                        lambda peer=peer, owner=owner, digest=digest: self.fetch(
                            me, peer, owner, digest
                        )
                    )
                case SendVote(peer=peer, vote=vote):
                    self.later(lambda peer=peer, vote=vote: self.bring_vote(me, peer, vote))
                case SendCommit(peers=peers, commit=commit):
                    assert not self.blocked, "a certificate came to be after a blocking set"
                    for peer in peers:
                        self.later(
                            lambda peer=peer, commit=commit: self.bring_commit(me, peer, commit)
                        )
                case End(outcome="success"):
                    assert ballot.commit is not None
                    assert not self.blocked, "a success after a blocking set"
                    self.success_bits.add(ballot.commit.spans)
        promised = [p for p, b in self.ballots.items() if b.stand is Stand.ABANDONED]
        self.blocked = blocking(tuple(self.ballots), promised)  # type: ignore[arg-type]

    def later(self, deliver: Callable[[], None]) -> None:
        self.deliveries.append(deliver)

    def ask(self, me: int, peer: int) -> None:
        asking, asked = self.ballots[me], self.ballots[peer]
        promise = asking.promise
        if not self.arrives(me, peer):
            self.later(lambda: self.no_answer(me, peer))
            return
        asked.on_asked(me, promise, False, self.now_s)
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

    def fetch(self, me: int, peer: int, owner: int, digest: bytes) -> None:
        if me in self.crashed:
            return
        status = self.ballots[peer].answer().spans[owner]
        if self.arrives(peer, me) and status.digest == digest:
            self.ballots[me].on_span(owner, digest, self.now_s)
        else:
            self.ballots[me].on_fetch_failed(peer, owner, self.now_s)
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
        for ballot in self.ballots.values():
            voted = ballot.vote is not None
            assert voted == (ballot.stand is Stand.VOTED)
            assert (ballot.promise is not None) == (ballot.stand is Stand.ABANDONED)
            if ballot.end is not None and ballot.end.outcome == "undecided":
                assert voted
            if ballot.end is not None and ballot.end.outcome == "failed" and ballot.end.certain:
                assert self.blocked

    def ends(self) -> list[End]:
        return [
            ballot.end
            for me, ballot in self.ballots.items()
            if me not in self.crashed and ballot.end is not None
        ]


SIZES = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(st.integers(0, 2**32), SIZES)
def test_without_faults_all_succeed_with_the_same_bits(seed: int, sizes: tuple[int, int]) -> None:
    world = World(random.Random(seed), *sizes)
    world.run()
    world.check()
    assert [end.outcome for end in world.ends()] == ["success"] * sizes[0]


@given(st.integers(0, 2**32), SIZES)
def test_after_one_crash_all_survivors_succeed_or_fail_for_certain(
    seed: int, sizes: tuple[int, int]
) -> None:
    """Two exceptions: of two, the first alone is a quorum, so the second cannot know; and clients
    cannot do without any aggregator.
    """
    rng = random.Random(seed)
    world = World(rng, *sizes)
    for _ in range(rng.randint(0, 20)):
        world.step()
    victim = rng.randrange(sizes[0])
    world.crash(victim)
    world.run()
    world.check()
    if victim == 0 and (sizes[0] == 2 or sizes[1] == 1):
        return
    ends = world.ends()
    assert len({end.outcome for end in ends}) <= 1
    assert all(end.certain for end in ends)
    for peer, ballot in world.ballots.items():
        if peer != victim and ballot.end is not None and ballot.end.outcome == "failed":
            assert ballot.lost == (victim,)


@settings(max_examples=400)
@given(st.integers(0, 2**32), SIZES, st.booleans())
def test_no_schedule_breaks_the_promises(seed: int, sizes: tuple[int, int], lies: bool) -> None:
    rng = random.Random(seed)
    liars = frozenset(p for p in range(sizes[1]) if lies and rng.random() < 0.3)
    world = World(rng, *sizes, liars=liars, loss=rng.choice([0, 0, 0.1, 0.5]))
    for _ in range(rng.randint(0, 6)):
        for _ in range(rng.randint(0, 15)):
            world.step()
        one, other = rng.randrange(sizes[0]), rng.randrange(sizes[0])
        what = rng.randrange(4)
        if what == 0:
            world.crash(one)
        elif what == 1 and one != other:
            world.cut_link(one, other)
        elif what == 2:
            world.give_up(one)
        elif what == 3:
            world.cut.clear()
    world.run()
    world.check()


def ballot_of_three(me: int = 0) -> Ballot[int]:
    return World(random.Random(0), 3, 3).ballots[me]


def test_a_vote_is_sent_to_the_next_coordinator_when_one_is_lost() -> None:
    ballot = ballot_of_three(me=2)
    for owner in range(3):
        ballot.on_span(owner, bytes(32), 0.0)
    (first,) = ballot.next_actions()
    assert isinstance(first, SendVote)
    ballot.on_suspect(0, 0.0)
    (second,) = (action for action in ballot.next_actions() if isinstance(action, SendVote))
    assert (first.peer, second.peer) == (0, 1)
    assert first.vote == second.vote


def test_a_late_vote_is_answered_with_the_certificate() -> None:
    ballot = ballot_of_three()
    for owner in range(3):
        ballot.on_span(owner, bytes(32), 0.0)
    vote = Vote((bytes(32),) * 3, bytes(64))
    ballot.on_vote(1, vote, 0.0)
    actions = ballot.next_actions()
    assert [type(action) for action in actions] == [SendCommit, End]
    ballot.on_vote(2, vote, 1.0)
    (late,) = ballot.next_actions()
    assert isinstance(late, SendCommit)
    assert late.peers == (2,)


def test_an_abort_is_ignored_by_who_voted() -> None:
    ballot = ballot_of_three(me=1)
    for owner in range(3):
        ballot.on_span(owner, bytes(32), 0.0)
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
        for owner in range(3):
            ballot.on_span(owner, bytes(32), 0.0)
    ballot.on_give_up("deadline")
    assert ballot.end == End("undecided" if voted else "failed", False, "deadline")
    assert ballot.stand is (Stand.VOTED if voted else Stand.ABANDONED)
