"""RoundResult: what one attempt brought, in the terms of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from averaging.allreduce.manifest import manifest_digest
from averaging.allreduce.session import Array, Session
from averaging.matchmaking.group import Group
from averaging.report import MemberReport, Outcome
from p2p import PeerId


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """The outcome of one group."""

    outcome: Outcome
    certain: bool
    """Of a failure: nobody can have succeeded, so the survivors may try again at once."""
    hopeless: bool
    """Of such a failure: the same members would fail again."""
    reason: str
    vector: Array | None
    """The agreed average, in the dtype of the input; None without success."""
    digest: bytes
    members: Mapping[PeerId, MemberReport]
    lost: tuple[PeerId, ...]
    """Members that could not be reached, or left."""
    promised: bool
    """Whether we promised never to vote in this group."""
    sent_bytes: int
    received_bytes: int
    transfer_seconds: float
    agreement_seconds: float


def refused_group(group: Group, reason: str) -> RoundResult:
    """What comes of a group whose leader asks for the impossible: nothing."""
    return RoundResult(
        outcome="failed",
        certain=False,
        hopeless=False,
        reason=reason,
        vector=None,
        digest=b"",
        members={peer: MemberReport(fraction=0.0, weight=0.0) for peer in group.peer_ids},
        lost=(group.leader,),
        promised=False,
        sent_bytes=0,
        received_bytes=0,
        transfer_seconds=0.0,
        agreement_seconds=0.0,
    )


def result_of(session: Session, out: Array, now_s: float) -> RoundResult:
    """Sum up a session that has ended; on success its vector is written to out."""
    end, commit = session.ballot.end, session.ballot.commit
    assert end is not None
    held_all_s = session.held_all_s if session.held_all_s is not None else now_s
    succeeded = end.outcome == "success"
    members = members_of_success(session) if succeeded else members_of_failure(session)
    return RoundResult(
        outcome=end.outcome,
        certain=end.certain,
        hopeless=end.hopeless,
        reason=end.reason,
        vector=decoded(session, out) if succeeded else None,
        digest=manifest_digest(session.group_id, commit.spans) if succeeded and commit else b"",
        members=members,
        lost=lost_in_success(session) if succeeded else session.ballot.lost,
        promised=session.ballot.promise is not None,
        sent_bytes=session.sent_bytes,
        received_bytes=session.received_bytes,
        transfer_seconds=held_all_s - session.started_s,
        agreement_seconds=now_s - held_all_s,
    )


def decoded(session: Session, out: Array) -> Array:
    """The vector that the agreed bytes say, written to out."""
    for span in session.spans:
        for chunk, encoded in zip(span.chunks, session.held[span.owner].chunks, strict=True):
            out[chunk.start : chunk.stop] = np.frombuffer(encoded, session.wire_dtype)
    return out


def members_of_success(session: Session) -> dict[PeerId, MemberReport]:
    """How much of the vector contains each member, by the agreed tables."""
    reports = {}
    for number, peer in enumerate(session.members):
        included, weight, reason = 0, 0.0, ""
        for span in session.spans:
            end = session.held[span.owner].end
            included += sum(chunk.element_count for chunk in span.chunks[: end.included[number]])
            weight = max(weight, end.weights[number])
            reason = reason or end.reasons[number]
        whole = included / len(session.flat) if len(session.flat) else 1.0
        reports[peer] = MemberReport(
            fraction=whole, weight=weight, reason=reason or ("" if weight else "weight 0")
        )
    return reports


def members_of_failure(session: Session) -> dict[PeerId, MemberReport]:
    """Nothing was averaged; what we know of why."""
    excluded = session.reduction.excluded() if session.reduction is not None else {}
    declared = session.reduction.weights() if session.reduction is not None else ()
    weights = dict(zip(session.members, declared, strict=False))
    lost = session.ballot.lost
    return {
        peer: MemberReport(
            fraction=0.0,
            weight=session.weight if peer == session.me else weights.get(peer, 0.0),
            reason="lost" if peer in lost else excluded.get(peer, ""),
        )
        for peer in session.members
    }


def lost_in_success(session: Session) -> tuple[PeerId, ...]:
    """Members whose stream some aggregator lost."""
    lost: dict[PeerId, None] = {}
    for held in session.held.values():
        for peer, reason in zip(session.members, held.end.reasons, strict=True):
            if reason in LOST_REASONS:
                lost[peer] = None
    return tuple(peer for peer in session.members if peer in lost)


LOST_REASONS = ("did not come", "silent", "connection lost", "left")
"""Exclusions that say something of a member's presence, not of what it sent."""
