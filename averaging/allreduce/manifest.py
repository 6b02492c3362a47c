"""What is signed in a round, and how it is checked: weights, pieces, plans, votes, certificates.

A piece's digest covers its bytes and its table of members; the manifest is the list of piece
digests; a vote signs the manifest together with the group id. So a certificate proves, to anyone
who knows the group, which bytes a quorum of voters agreed on, and what those bytes contain (core).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from averaging.allreduce.partition import Piece
from averaging.allreduce.schema import MEMBERS_MAX, Commit, PieceEnd, Plan, Promise, Vote, Weight
from p2p import MessageInvalid, PeerId, verify_signature

Sign = Callable[[bytes], bytes]
Pieces = tuple[bytes, ...]

_NO_SIGNATURE = bytes(64)


@dataclass(frozen=True, kw_only=True)
class Signing:
    """How our words are signed; a vote and a promise never both in one group."""

    vote: Callable[[Pieces], Vote]
    promise: Callable[[], Promise]
    plan: Callable[[int, Sequence[int]], Plan]


def _signed_bytes(what: str, *fields: Any) -> bytes:
    # The name in front keeps a signature of one kind from passing as another's.
    return msgspec.msgpack.encode((f"manyhands/allreduce/1/{what}", *fields))


def signed_weight(group_id: bytes, weight: float, norm: float, sign: Sign) -> Weight:
    """A member's declaration of its weight and norm."""
    weight, norm = float(weight), float(norm)
    return Weight(weight, norm, sign(_signed_bytes("weight", group_id, weight, norm)))


def check_weight_untrusted(weight: Weight, group_id: bytes, member: PeerId) -> None:
    """Raise MessageInvalid unless the member signed this weight for this group."""
    signed = _signed_bytes("weight", group_id, weight.weight, weight.norm)
    if not verify_signature(member, signed, weight.signature):
        raise MessageInvalid("a weight has a wrong signature")


def piece_digest(end: PieceEnd) -> bytes:
    """Names a piece's bytes and who is in them; the signature is not part of it."""
    body = msgspec.structs.replace(end, signature=_NO_SIGNATURE)
    return hashlib.sha256(_signed_bytes("piece", body)).digest()


def signed_piece_end(end: PieceEnd, sign: Sign) -> PieceEnd:
    """The same, signed by its aggregator."""
    signature = sign(_signed_bytes("piece-end", piece_digest(end)))
    return msgspec.structs.replace(end, signature=signature)


def check_piece_end_untrusted(
    end: PieceEnd, group_id: bytes, aggregators: Sequence[PeerId], piece: Piece, member_count: int
) -> None:
    """Raise MessageInvalid unless an aggregator signed it and it fits the group."""
    if end.group_id != group_id or end.piece != piece.number or end.owner >= len(aggregators):
        raise MessageInvalid("a piece end belongs to another piece")
    if end.plan == 0 and end.owner != piece.owner:
        raise MessageInvalid("a piece end comes from another than the piece's owner")
    if len(end.chunks) != len(piece.chunks):
        raise MessageInvalid("a piece end has a wrong number of chunks")
    tables = (end.included, end.weights, end.reasons, end.norms)
    if any(len(table) != member_count for table in tables):
        raise MessageInvalid("a piece end has a wrong number of members")
    if any(count > len(piece.chunks) for count in end.included):
        raise MessageInvalid("a piece end includes a member in chunks that do not exist")
    if not all(0 <= number < float("inf") for number in (*end.weights, *end.norms)):
        raise MessageInvalid("a piece end has an impossible weight or norm")
    signed = _signed_bytes("piece-end", piece_digest(end))
    if not verify_signature(aggregators[end.owner], signed, end.signature):
        raise MessageInvalid("a piece end has a wrong signature")


def contradict(one: PieceEnd, other: PieceEnd) -> bool:
    """Whether two verified ends prove that their signer lies."""
    same = (one.group_id, one.piece, one.owner, one.plan) == (
        other.group_id,
        other.piece,
        other.owner,
        other.plan,
    )
    return same and piece_digest(one) != piece_digest(other)


def signed_plan(group_id: bytes, number: int, owners: Sequence[int], sign: Sign) -> Plan:
    """A plan of the member whose number is in the plan's."""
    owners = tuple(owners)
    return Plan(number, owners, sign(_signed_bytes("plan", group_id, number, owners)))


def check_plan_untrusted(
    plan: Plan, group_id: bytes, members: Sequence[PeerId], aggregator_count: int, piece_count: int
) -> None:
    """Raise MessageInvalid unless the member that it names signed it and it fits the group."""
    planner = plan.number % MEMBERS_MAX
    if planner >= len(members) or plan.number < MEMBERS_MAX:
        raise MessageInvalid("a plan names no planner")
    if len(plan.owners) != piece_count or any(k >= aggregator_count for k in plan.owners):
        raise MessageInvalid("a plan does not fit the group")
    signed = _signed_bytes("plan", group_id, plan.number, plan.owners)
    if not verify_signature(members[planner], signed, plan.signature):
        raise MessageInvalid("a plan has a wrong signature")


def manifest_digest(group_id: bytes, pieces: Pieces) -> bytes:
    """Names the whole result of a group."""
    return hashlib.sha256(_signed_bytes("manifest", group_id, pieces)).digest()


def signed_vote(group_id: bytes, pieces: Pieces, sign: Sign) -> Vote:
    """A vote for these pieces; the caller must never sign another in this group."""
    return Vote(pieces, sign(_signed_bytes("vote", group_id, manifest_digest(group_id, pieces))))


def check_vote_untrusted(vote: Vote, group_id: bytes, voter: PeerId, piece_count: int) -> None:
    """Raise MessageInvalid unless the voter signed this vote in this group."""
    if len(vote.pieces) != piece_count:
        raise MessageInvalid("a vote names a wrong number of pieces")
    signed = _signed_bytes("vote", group_id, manifest_digest(group_id, vote.pieces))
    if not verify_signature(voter, signed, vote.signature):
        raise MessageInvalid("a vote has a wrong signature")


def signed_promise(group_id: bytes, member: int, sign: Sign) -> Promise:
    """A promise never to vote in the group; the caller must keep it."""
    return Promise(member, sign(_signed_bytes("promise", group_id)))


def check_promise_untrusted(promise: Promise, group_id: bytes, members: Sequence[PeerId]) -> None:
    """Raise MessageInvalid unless the member that it names signed it for this group."""
    if promise.member >= len(members):
        raise MessageInvalid("a promise names no member")
    signed = _signed_bytes("promise", group_id)
    if not verify_signature(members[promise.member], signed, promise.signature):
        raise MessageInvalid("a promise has a wrong signature")


def check_commit_untrusted(
    commit: Commit,
    group_id: bytes,
    voters: Sequence[PeerId],
    piece_count: int,
    quorum_reached: Callable[[Sequence[PeerId], Collection[PeerId]], bool],
) -> None:
    """Raise MessageInvalid unless a quorum of the voters signed for these pieces."""
    numbers = commit.voters
    if len(commit.pieces) != piece_count or len(numbers) != len(commit.signatures):
        raise MessageInvalid("a certificate has a wrong number of pieces or signatures")
    if len(set(numbers)) != len(numbers) or any(number >= len(voters) for number in numbers):
        raise MessageInvalid("a certificate names a voter twice, or one who is none")
    signers = [voters[number] for number in numbers]
    if not quorum_reached(voters, signers):
        raise MessageInvalid("a certificate has no quorum")
    for signer, signature in zip(signers, commit.signatures, strict=True):
        check_vote_untrusted(Vote(commit.pieces, signature), group_id, signer, piece_count)
