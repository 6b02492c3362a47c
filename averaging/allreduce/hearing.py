"""What a session makes of other members' words, once it has checked them."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from averaging.allreduce import manifest
from averaging.allreduce.schema import (
    CHUNKS_MAX,
    EVIDENCE_MAX,
    Answer,
    Commit,
    PieceEnd,
    Plan,
    Promise,
    Question,
    Vote,
    Weight,
)
from averaging.allreduce.session import Session
from p2p import MessageInvalid, PeerId, RefusedError


def on_weight_untrusted(session: Session, member: PeerId, weight: Weight) -> str | None:
    """A member declared its weight and norm to us as an aggregator; why it is refused, or None."""
    manifest.check_weight_untrusted(weight, session.group_id, member)
    return session.senders.on_weight(member, weight.weight, weight.norm)


def on_vote_untrusted(session: Session, voter: PeerId, vote: Vote) -> None:
    """A member's vote came to us."""
    _check_vote_untrusted(session, voter, vote)
    session.ballot.on_vote(voter, vote, trio.current_time())
    session.act()


def on_commit_untrusted(session: Session, commit: Commit) -> None:
    """A certificate came to us."""
    if session.ballot.commit is None:
        _check_commit_untrusted(session, commit)
        session.ballot.on_commit(commit, trio.current_time())
        session.act()


def on_plan_untrusted(session: Session, plan: Plan) -> None:
    """A plan came to us."""
    _check_plan_untrusted(session, plan)
    session.ballot.on_plan(plan, trio.current_time())
    session.act()


def on_answer_untrusted(session: Session, peer: PeerId, answer: Answer) -> None:
    """A member told us how it stands."""
    if len(answer.pieces) != len(session.pieces):
        raise MessageInvalid("an answer has a wrong number of pieces")
    for promise in answer.promises:
        _check_promise_untrusted(session, promise)
    if answer.vote is not None:
        _check_vote_untrusted(session, peer, answer.vote)
    if answer.commit is not None and session.ballot.commit is None:
        _check_commit_untrusted(session, answer.commit)
    if answer.plan is not None:
        _check_plan_untrusted(session, answer.plan)
    for end in answer.evidence:
        _on_evidence_untrusted(session, end)
    session.ballot.on_answer(peer, answer, trio.current_time())
    session.act()


def answer_untrusted(session: Session, caller: PeerId, question: Question) -> Answer:
    """Say how we stand, and learn how the caller does."""
    if caller not in session.members:
        raise RefusedError("not-found", "the caller is not in the group")
    if question.promise is not None:
        _check_promise_untrusted(session, question.promise)
    if question.plan is not None:
        _check_plan_untrusted(session, question.plan)
    session.ballot.on_asked(
        caller,
        trio.current_time(),
        promise=question.promise,
        gone=question.gone,
        plan=question.plan,
    )
    session.act()
    answer = session.ballot.answer(gone=session.gone)
    ours = session.ballot.vote
    if question.vote is None or ours is None or len(question.vote.pieces) != len(ours.pieces):
        return answer
    differing = [
        session.held[piece].end
        for piece, (one, other) in enumerate(zip(ours.pieces, question.vote.pieces, strict=True))
        if one != other and piece in session.held
    ]
    evidence = evidence_of(differing)
    return Answer(
        answer.pieces,
        answer.vote,
        answer.commit,
        answer.promises,
        answer.gone,
        answer.plan,
        answer.open,
        evidence,
    )


def evidence_of(differing: Sequence[PieceEnd]) -> tuple[PieceEnd, ...]:
    """As many of them as fit an answer; one about which somebody lied is proof enough."""
    evidence: list[PieceEnd] = []
    left = CHUNKS_MAX
    for end in differing:
        if len(evidence) < EVIDENCE_MAX and len(end.chunks) <= left:
            evidence.append(end)
            left -= len(end.chunks)
    return tuple(evidence)


def check_piece_end_untrusted(session: Session, end: PieceEnd, piece: int) -> None:
    """Raise MessageInvalid unless an aggregator of the group signed it for this piece."""
    manifest.check_piece_end_untrusted(
        end, session.group_id, session.aggregators, session.pieces[piece], len(session.members)
    )


def _on_evidence_untrusted(session: Session, end: PieceEnd) -> None:
    if end.piece >= len(session.pieces):
        raise MessageInvalid("evidence about a piece that does not exist")
    check_piece_end_untrusted(session, end, end.piece)
    held = session.held.get(end.piece)
    if held is not None and manifest.contradict(held.end, end):
        session.on_liar(session.aggregators[end.owner])


def _check_vote_untrusted(session: Session, voter: PeerId, vote: Vote) -> None:
    if voter not in session.voters:
        raise MessageInvalid("a vote of a member that has none")
    if session.ballot.tally.vote_of(voter) != vote:
        manifest.check_vote_untrusted(vote, session.group_id, voter, len(session.pieces))


def _check_promise_untrusted(session: Session, promise: Promise) -> None:
    if not session.ballot.tally.knows_promise(promise):
        manifest.check_promise_untrusted(promise, session.group_id, session.members)


def _check_plan_untrusted(session: Session, plan: Plan) -> None:
    if plan != session.ballot.plan:
        manifest.check_plan_untrusted(
            plan,
            session.group_id,
            session.members,
            len(session.aggregators),
            len(session.pieces),
        )


def _check_commit_untrusted(session: Session, commit: Commit) -> None:
    manifest.check_commit_untrusted(
        commit, session.group_id, session.voters, len(session.pieces), session.quorum_reached
    )
