"""RoundResult: what one attempt brought, in the terms of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from averaging.allreduce.manifest import manifest_digest
from averaging.allreduce.rates import Flow
from averaging.allreduce.reduction import LOST_REASONS
from averaging.allreduce.schema import MEMBERS_MAX
from averaging.allreduce.session import Session
from averaging.codecs.floating import Span
from averaging.matchmaking.group import Group
from averaging.report import MemberReport, Outcome
from p2p import Path, PeerId


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """The outcome of one group."""

    outcome: Outcome
    certain: bool
    """Of a failure: nobody can have succeeded, so the survivors may try again at once."""
    hopeless: bool
    """Of such a failure: the same members would fail again."""
    reason: str
    digest: bytes
    members: Mapping[PeerId, MemberReport]
    lost: tuple[PeerId, ...]
    """Members that could not be reached, left, or lied."""
    promised: bool
    """Whether we promised never to vote in this group."""
    agreed: bytes = b""
    """The digest of what the others agreed on, as far as we know; on success ours."""
    plans: int = 0
    """How often the work of lost aggregators was given to others."""
    sent_bytes: Mapping[Path, int] = field(default_factory=dict)
    """Bulk bytes, by how they travelled."""
    received_bytes: Mapping[Path, int] = field(default_factory=dict)
    transfer_seconds: float = 0.0
    """From our values being final to holding the whole result."""
    reduction_seconds: float = 0.0
    """Of that, spent on averaging what is ours."""
    repair_seconds: float = 0.0
    """Of that, since an aggregator was lost."""
    sending_seconds: float = 0.0
    """In which payload of ours was under way."""
    sent: Flow = field(default_factory=Flow)
    """How what was sent was spread over the round."""
    received: Flow = field(default_factory=Flow)
    agreement_seconds: float = 0.0
    """From holding the result to the certificate, or to giving up."""
    codec: str = ""
    """What the values travelled by, if not as floats alone."""
    dropped_elements: int = 0
    """Of how many elements something that codecs lost is given up for good."""
    left_out: tuple[Span, ...] = ()
    """Where the agreed vector lacks our values, though we contributed."""


def refused_group(group: Group, reason: str) -> RoundResult:
    """What comes of a group whose leader asks for the impossible: nothing."""
    return RoundResult(
        outcome="failed",
        certain=False,
        hopeless=False,
        reason=reason,
        digest=b"",
        members={peer: MemberReport(fraction=0.0, weight=0.0) for peer in group.peer_ids},
        lost=(group.leader,),
        promised=False,
    )


def result_of(session: Session, now_s: float) -> RoundResult:
    """Sum up a session that has ended."""
    end, commit = session.ballot.end, session.ballot.commit
    assert end is not None
    held_all_s = session.held_all_s if session.held_all_s is not None else now_s
    # The others may have been done before our values were final.
    held_all_s = max(held_all_s, session.begun_at_s)
    trouble_s = session.trouble_since_s
    succeeded = end.outcome == "success"
    agreed = manifest_digest(session.group_id, commit.pieces) if commit else b""
    plan = session.ballot.plan
    # An auxiliary member holds no more of the result than it averaged itself.
    contributes = session.weight > 0 and session.me in session.voters
    return RoundResult(
        outcome=end.outcome,
        certain=end.certain,
        hopeless=end.hopeless,
        reason=end.reason,
        digest=agreed if succeeded else b"",
        members=members_of_success(session) if succeeded else members_of_failure(session),
        lost=lost_in_success(session) if succeeded else session.ballot.lost,
        promised=session.ballot.promise is not None,
        agreed=agreed,
        plans=plan.number // MEMBERS_MAX if plan is not None else 0,
        sent_bytes=dict(session.sent_bytes),
        received_bytes=dict(session.received_bytes),
        transfer_seconds=held_all_s - session.begun_at_s,
        reduction_seconds=session.reduction_seconds,
        sending_seconds=session.sending.seconds,
        sent=session.sent,
        received=session.received,
        repair_seconds=max(held_all_s - trouble_s, 0.0) if trouble_s is not None else 0.0,
        agreement_seconds=now_s - held_all_s,
        codec=session.coding.name,
        left_out=left_out_of_success(session) if succeeded and contributes else (),
    )


def members_of_success(session: Session) -> dict[PeerId, MemberReport]:
    """How much of the vector contains each member, by the agreed tables that we hold."""
    held = [
        session.held[piece.number].end for piece in session.pieces if piece.number in session.held
    ]
    known = sum(session.pieces[end.piece].element_count for end in held)
    reports = {}
    for number, peer in enumerate(session.members):
        included, weight, norm, reason = 0, 0.0, 0.0, ""
        for end in held:
            chunks = session.pieces[end.piece].chunks[: end.included[number]]
            included += sum(chunk.element_count for chunk in chunks)
            weight = max(weight, end.weights[number])
            norm = max(norm, end.norms[number])
            reason = reason or end.reasons[number]
        # An empty vector, or an auxiliary member that averaged nothing: we know of no exclusion.
        whole = included / known if known else float(peer in session.voters)
        if peer in session.ballot.liars:
            reason = LIED
        elif peer not in session.voters:
            reason = reason or "auxiliary"
        elif known and not weight:
            reason = reason or "weight 0"
        elif len({(end.weights[number], end.norms[number]) for end in held} - {(0.0, 0.0)}) > 1:
            # Its aggregators never heard of it where there are zeros.
            reason = reason or DIFFERS
        reports[peer] = MemberReport(fraction=whole, weight=weight, norm=norm, reason=reason)
    return reports


def left_out_of_success(session: Session) -> tuple[Span, ...]:
    """Where the vector does not contain our values, by the agreed tables."""
    me = session.members.index(session.me)
    runs: list[Span] = []
    for piece in session.pieces:
        included = session.held[piece.number].end.included[me]
        if included < len(piece.chunks):
            runs.append((piece.chunks[included].start, piece.stop))
    return tuple(runs)


def members_of_failure(session: Session) -> dict[PeerId, MemberReport]:
    """Nothing was averaged; what we know of why."""
    excluded, lost = session.senders.reasons(), session.ballot.lost
    reports = {}
    for peer in session.members:
        reason = "lost" if peer in lost else excluded.get(peer, "")
        if peer in session.ballot.liars:
            reason = LIED
        weight = session.weight if peer == session.me else session.senders.weight_of(peer)
        reports[peer] = MemberReport(fraction=0.0, weight=weight, reason=reason)
    return reports


def lost_in_success(session: Session) -> tuple[PeerId, ...]:
    """Members whose stream some aggregator lost, or who are lost as aggregators, or lied."""
    lost = dict.fromkeys(session.ballot.liars)
    for held in session.held.values():
        for peer, reason in zip(session.members, held.end.reasons, strict=True):
            if reason in LOST_REASONS:
                lost[peer] = None
    if session.ballot.plan is not None:
        lost.update(dict.fromkeys(session.ballot.lost))
    return tuple(peer for peer in session.members if peer in lost)


DIFFERS: Final = "weights or norms differ between aggregators: it lied to them, or one of them lies"
LIED: Final = "signed two things that exclude each other"
