"""Questions and fetches between members of a simulated group, as recovery and hearing do them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from averaging.allreduce.outputs import FetchPiece
from averaging.allreduce.schema import Answer, Plan, Promise, Vote
from tests.averaging.allreduce import model_lies
from tests.averaging.allreduce.model import DUPLICATE_SHARE
from tests.averaging.allreduce.model_messages import Record, contradict

if TYPE_CHECKING:
    from tests.averaging.allreduce.model_member import Member

ASK_TIMEOUT_S = 1.0
FETCH_TIMEOUT_S = 2.5
EVIDENCE_MAX = 4


class _Question:
    """A question that is out; it ends once, with an answer or with none."""

    def __init__(self, member: Member, peer: int) -> None:
        self.member, self.peer = member, peer
        self.over = False
        member.outstanding += 1

    def end(self) -> bool:
        """Whether it was open until now, and the asker still cares."""
        if self.over:
            return False
        self.over = True
        self.member.outstanding -= 1
        return not self.member.over

    def fail(self) -> None:
        """No answer came."""
        if self.end():
            self.member.ballot.on_no_answer(self.peer, self.member.now_s())
            self.member.act()

    def refuse(self) -> None:
        """The other knows no such group."""
        if self.end():
            self.member.ballot.on_stranger(self.peer, self.member.now_s())
            self.member.act()

    def answer(self, answer: Answer, evidence: list[Record]) -> None:
        """An answer came."""
        if self.end():
            take_answer(self.member, self.peer, answer, evidence)


def ask(member: Member, peer: int) -> None:
    """Ask a member how it stands."""
    world, question = member.world, _Question(member, peer)
    ballot, other = member.ballot, member.members[peer]
    promise = model_lies.promise_of(member)
    told = (promise, member.gone, ballot.plan, ballot.vote)

    def serve() -> None:
        if not other.entered:
            world.post(peer, member.me, question.refuse)
            return
        answer, evidence = answer_to(other, member.me, *told)
        answer = model_lies.answer_for(other, member.me, answer)
        world.post(peer, member.me, lambda: question.answer(answer, evidence))
        if world.rng.random() < DUPLICATE_SHARE:
            world.post(peer, member.me, lambda: repeat(member, peer, answer, evidence))

    arrives = world.post(member.me, peer, serve)
    refused = other.host.crashed and arrives and world.rng.random() < 0.5
    timeout_s = world.delay_s() if refused else ASK_TIMEOUT_S
    member.host.after(timeout_s, question.fail)


def repeat(member: Member, peer: int, answer: Answer, evidence: list[Record]) -> None:
    """An answer comes a second time."""
    if not member.over:
        take_answer(member, peer, answer, evidence)


def answer_to(
    member: Member,
    caller: int,
    promise: Promise | None,
    gone: bool,
    plan: Plan | None,
    vote: Vote | None,
) -> tuple[Answer, list[Record]]:
    """Say how we stand, and learn how the caller does."""
    ballot = member.ballot
    ballot.on_asked(caller, member.now_s(), promise=promise, gone=gone, plan=plan)
    member.act()
    answer, ours = ballot.answer(gone=member.gone), ballot.vote
    if vote is None or ours is None:
        return answer, []
    differing = [
        member.held[piece]
        for piece, (one, another) in enumerate(zip(ours.pieces, vote.pieces, strict=True))
        if one != another and piece in member.held
    ]
    return answer, differing[:EVIDENCE_MAX]


def take_answer(member: Member, peer: int, answer: Answer, evidence: list[Record]) -> None:
    """A member told us how it stands."""
    for record in evidence:
        held = member.held.get(record.piece)
        if held is not None and contradict(held, record):
            member.ballot.on_liar(member.setup.aggregators[record.owner])
    member.ballot.on_answer(peer, answer, member.now_s())
    member.act()


def fetch(member: Member, wanted: FetchPiece[int]) -> None:
    """Fetch a piece from a member that holds it."""
    world, other = member.world, member.members[wanted.peer]
    over = False
    member.outstanding += 1

    def end(record: Record | None) -> None:
        nonlocal over
        if over:
            return
        over = True
        member.outstanding -= 1
        if member.over:
            return
        if record is None or member.group.digest_of(record) != wanted.digest:
            member.ballot.on_fetch_failed(wanted.peer, wanted.piece, member.now_s())
            member.act()
        else:
            member.hold(record)

    def serve() -> None:
        record = other.held.get(wanted.piece)
        if record is not None and other.group.digest_of(record) != wanted.digest:
            record = None
        pause_s = other.host.result_interval_s * member.group.pieces[wanted.piece].chunk_count
        world.after(
            pause_s,
            lambda: other.host.do(
                lambda: world.post(wanted.peer, member.me, lambda: end(record)) and None
            ),
        )

    world.post(member.me, wanted.peer, serve)
    pause_s = other.host.result_interval_s * member.group.pieces[wanted.piece].chunk_count
    member.host.after(pause_s + FETCH_TIMEOUT_S, lambda: end(None))
