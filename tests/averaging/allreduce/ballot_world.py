"""A world for ballots alone: any order of messages, any loss, no clock but a coarse one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

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
                due = ballot.deadline_s
                assert due is None or due > self.now_s, "a timer that stays in the past"

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
