"""Groups: members' own signed JOINs under one id, and what makes a quorum of them.

A leader collects JOINs; it can neither conscript nor alter a member, since each signed its own
with a fresh nonce, nor show two bodies under one id, since the id is the body's SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from averaging.matchmaking import schema
from averaging.matchmaking.keys import rank
from averaging.round_id import RoundId
from p2p import (
    MessageInvalid,
    PeerId,
    decode_untrusted,
    encode,
    parse_peer_id_untrusted,
    verify_signature,
)

# Signatures of this key for other purposes must not pass for a JOIN.
_SIGNING_CONTEXT = b"manyhands/matchmaking/join/1\0"

# Chunks: an eighth of a span keeps several in flight; the bounds keep headers and buffers small.
_CHUNKS_PER_SPAN = 8
_CHUNK_ELEMENTS_MIN = 4096
_CHUNK_ELEMENTS_MAX = 131_072


@dataclass(frozen=True)
class Join:
    """A member's signed promise to take part in one round."""

    peer_id: PeerId
    group_name: str
    round: RoundId
    spec_hash: bytes
    wire_dtype: str
    role: schema.Role
    weight_cap: float
    nonce: bytes
    addresses: tuple[str, ...]
    previous: bytes
    """Id of the member's failed group of this round, or empty."""
    abandoned: bool
    """Whether the member promised never to vote in that group."""
    signature: bytes = b""
    bucket: str = ""
    """Where in the grid, if there is one."""


@dataclass(frozen=True)
class Group:
    """Who averages together in one attempt of one round."""

    group_id: bytes
    round: RoundId
    members: tuple[Join, ...]
    """Leader first, the others by rank."""
    chunk_elements: int
    deadline_s: float
    """Longest duration of the attempt; each member counts from its own receipt."""
    attempt: int
    previous: bytes
    """Id of the failed group that this one replaces, or empty."""

    @property
    def leader(self) -> PeerId:
        """Who gathered the group."""
        return self.members[0].peer_id

    @property
    def peer_ids(self) -> tuple[PeerId, ...]:
        """Every member, in order."""
        return tuple(join.peer_id for join in self.members)

    @property
    def voters(self) -> tuple[PeerId, ...]:
        """Whose votes commit the result, in order: all members."""
        return self.peer_ids

    @property
    def aggregators(self) -> tuple[PeerId, ...]:
        """Who owns spans: those that can be dialed, in order; a lone member its own."""
        nodes = tuple(join.peer_id for join in self.members if join.role == "node")
        return nodes or self.peer_ids[:1]

    def join_of(self, peer_id: PeerId) -> Join | None:
        """A member's JOIN."""
        return next((join for join in self.members if join.peer_id == peer_id), None)


def quorum_reached(voters: Sequence[PeerId], votes: Collection[PeerId]) -> bool:
    """Whether these votes commit: a strict majority, or exactly half with the first voter."""
    count = sum(1 for voter in voters if voter in votes)
    if 2 * count == len(voters):
        return count > 0 and voters[0] in votes
    return 2 * count > len(voters)


def blocking(voters: Sequence[PeerId], abandoned: Collection[PeerId]) -> bool:
    """Whether the voters that did not abandon the group can no longer commit it."""
    return not quorum_reached(voters, [voter for voter in voters if voter not in abandoned])


def choose_chunk_elements(element_count: int, aggregator_count: int) -> int:
    """The length of a chunk: an eighth of an equal span, between 4 096 and 131 072 elements."""
    span = element_count // max(aggregator_count, 1)
    return min(max(span // _CHUNKS_PER_SPAN, _CHUNK_ELEMENTS_MIN), _CHUNK_ELEMENTS_MAX)


def sign_join(join: Join, sign: Callable[[bytes], bytes]) -> Join:
    """The same JOIN with its member's signature."""
    return replace(join, signature=sign(_SIGNING_CONTEXT + _join_bytes(join)))


def join_on_wire(join: Join) -> schema.SignedJoin:
    """A signed JOIN as it travels."""
    return schema.SignedJoin(_join_bytes(join), join.signature)


def parse_join_untrusted(signed: schema.SignedJoin) -> Join:
    """Check a JOIN and its signature.

    Raises:
        MessageInvalid: malformed, not canonical, or not signed by the peer that it names.
    """
    body = decode_untrusted(signed.body, schema.JoinBody, size_bytes_max=schema.JOIN_BYTES_MAX)
    join = Join(
        peer_id=parse_peer_id_untrusted(body.peer_id),
        group_name=body.group_name,
        round=body.round.round_id(),
        spec_hash=body.spec_hash,
        wire_dtype=body.wire_dtype,
        role=body.role,
        weight_cap=body.weight_cap,
        nonce=body.nonce,
        addresses=body.addresses,
        previous=_hash_or_empty_untrusted(body.previous),
        abandoned=body.abandoned,
        bucket=body.bucket,
        signature=signed.signature,
    )
    if _join_bytes(join) != signed.body:
        raise MessageInvalid("a JOIN is not in canonical form")
    if not verify_signature(join.peer_id, _SIGNING_CONTEXT + signed.body, signed.signature):
        raise MessageInvalid("a JOIN is not signed by the peer that it names")
    return join


def form_group(
    joins: Sequence[Join], *, chunk_elements: int, deadline_s: float, attempt: int, previous: bytes
) -> tuple[Group, bytes]:
    """Make a group of JOINs for one round, the leader's first; returns it and its body."""
    leader = joins[0]
    others = sorted(joins[1:], key=lambda join: rank(join.round.parent, join.peer_id))
    members = (leader, *others)
    group = Group(
        group_id=b"",
        round=leader.round,
        members=members,
        chunk_elements=chunk_elements,
        deadline_s=deadline_s,
        attempt=attempt,
        previous=previous,
    )
    body = body_of(group)
    return replace(group, group_id=hashlib.sha256(body).digest()), body


def body_of(group: Group) -> bytes:
    """The bytes whose SHA-256 is the group's id; any member can show them to another."""
    return encode(
        schema.GroupBody(
            tuple(join_on_wire(join) for join in group.members),
            group.chunk_elements,
            group.deadline_s,
            group.attempt,
            group.previous,
        )
    )


def parse_group_untrusted(data: bytes) -> Group:
    """Check a group's body: form, signatures, one round and spec for all, and the order.

    Raises:
        MessageInvalid: any of these does not hold.
    """
    limit = schema.JOIN.response_bytes_max
    body = decode_untrusted(data, schema.GroupBody, size_bytes_max=limit)
    members = tuple(parse_join_untrusted(signed) for signed in body.joins)
    leader = members[0]
    if len({join.peer_id for join in members}) != len(members):
        raise MessageInvalid("a group names a member twice")
    shared = _shared(leader)
    for join in members:
        if _shared(join) != shared:
            raise MessageInvalid("a group's members did not join the same round with one spec")
    if leader.role != "node":
        raise MessageInvalid("a group is led by a client, which cannot be dialed")
    ranks = [rank(leader.round.parent, join.peer_id) for join in members[1:]]
    if ranks != sorted(ranks):
        raise MessageInvalid("a group's members are not ordered by rank")
    return Group(
        group_id=hashlib.sha256(data).digest(),
        round=leader.round,
        members=members,
        chunk_elements=body.chunk_elements,
        deadline_s=body.deadline_s,
        attempt=body.attempt,
        previous=_hash_or_empty_untrusted(body.previous),
    )


def _shared(join: Join) -> tuple[str, RoundId, bytes, str, str]:
    """What all members of a group must have alike."""
    return (join.group_name, join.round, join.spec_hash, join.wire_dtype, join.bucket)


def _join_bytes(join: Join) -> bytes:
    return encode(
        schema.JoinBody(
            join.peer_id,
            join.group_name,
            schema.round_on_wire(join.round),
            join.spec_hash,
            join.wire_dtype,
            join.role,
            join.weight_cap,
            join.nonce,
            join.addresses,
            join.previous,
            join.abandoned,
            join.bucket,
        )
    )


def _hash_or_empty_untrusted(value: bytes) -> bytes:
    if value and len(value) != schema.HASH_SIZE_BYTES:
        raise MessageInvalid(f"a group id of {len(value)} bytes")
    return value
