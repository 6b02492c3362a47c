"""Groups: members' own signed JOINs under one id, and what makes a quorum of them.

A leader collects JOINs; it can neither conscript nor alter a member, since each signed its own
with a fresh nonce, nor show two bodies under one id, since the id is the body's SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from averaging.allreduce.balance import Capacity
from averaging.matchmaking import schema
from averaging.matchmaking.keys import rank
from averaging.matchmaking.paths import PathTable, check_paths_untrusted
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

# Of a span: an eighth keeps several in flight. Where it is there soon, messages take the time.
_CHUNKS_PER_SPAN_MAX = 8
_CHUNK_S = 0.06
_CHUNK_ELEMENTS_MIN = 4096

_OPEN = schema.Paths()


@dataclass(frozen=True)
class Join:
    """A member's signed promise to take part in one round."""

    peer_id: PeerId
    group_name: str
    round: RoundId
    spec_hash: bytes
    terms: str
    role: schema.Role
    weight_cap: float
    up_bytes_per_s: int
    """0: unknown."""
    down_bytes_per_s: int
    nonce: bytes
    addresses: tuple[str, ...]
    previous: bytes
    """Id of the member's failed group of this round, or empty."""
    abandoned: bool
    """Whether the member promised never to vote in that group."""
    signature: bytes = b""
    bucket: str = ""
    """Where in the grid, if there is one."""
    paths: schema.Paths = _OPEN
    reference: bytes = b""
    """Digest of the result that the member's values are told by their difference from."""


@dataclass(frozen=True)
class Group:
    """Who averages together in one attempt of one round."""

    group_id: bytes
    round: RoundId
    members: tuple[Join, ...]
    """Leader first, the others by rank."""
    chunk_elements: int
    span_elements: tuple[int, ...]
    """How much each aggregator averages, in their order."""
    deadline_s: float
    """Longest duration of the attempt; each member counts from its own receipt."""
    attempt: int
    previous: bytes
    """Id of the failed group that this one replaces, or empty."""
    over_relay: bool = False
    """Whether the leader alone averages, and relays carry that."""

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
        """Whose votes commit the result, in order: all that contribute."""
        return tuple(join.peer_id for join in self.members if join.role != "aux")

    @property
    def aggregators(self) -> tuple[PeerId, ...]:
        """Who owns spans: those that every contributor has a path to, in order."""
        return tuple(
            join.peer_id
            for join, capacity in zip(self.members, self.capacities, strict=True)
            if capacity.aggregates
        )

    @cached_property
    def capacities(self) -> tuple[Capacity, ...]:
        """What each member says that it can do, in order."""
        return capacities_of(self.members, over_relay=self.over_relay)

    def join_of(self, peer_id: PeerId) -> Join | None:
        """A member's JOIN."""
        return next((join for join in self.members if join.peer_id == peer_id), None)


def quorum_reached(
    voters: Sequence[PeerId], votes: Collection[PeerId], tolerated_liars: int = 0
) -> bool:
    """Whether these votes commit: a strict majority, or exactly half with the first voter.

    With f tolerated liars: more than (n + f) / 2 votes, so that two quorums share an honest one.
    """
    count = sum(1 for voter in voters if voter in votes)
    if tolerated_liars:
        return count > (len(voters) + tolerated_liars) // 2
    if 2 * count == len(voters):
        return count > 0 and voters[0] in votes
    return 2 * count > len(voters)


def blocking(
    voters: Sequence[PeerId], abandoned: Collection[PeerId], tolerated_liars: int = 0
) -> bool:
    """Whether the voters that did not abandon the group can no longer commit it.

    So many liars may be among those that did, and vote all the same.
    """
    promised = [voter for voter in voters if voter in abandoned]
    left = [voter for voter in voters if voter not in abandoned]
    return not quorum_reached(voters, [*left, *promised[:tolerated_liars]], tolerated_liars)


def choose_chunk_elements(
    element_count: int, aggregator_count: int, longest: int, span_s: float | None = None
) -> int:
    """The length of a chunk: an eighth of an equal span, from 4 096 elements to the longest.

    Where links are fast it is more, so that its parts take about 0.06 s to come in, up to the
    whole span.

    Args:
        span_s: how long the parts of such a span take to come in; None where nobody knows.
    """
    count = _CHUNKS_PER_SPAN_MAX
    if span_s is not None:
        count = max(round(min(span_s / _CHUNK_S, count)), 1)
    span = -(-element_count // max(aggregator_count, 1))
    return min(max(-(-span // count), _CHUNK_ELEMENTS_MIN), longest)


def span_seconds(capacities: Sequence[Capacity], span_bytes: float) -> float | None:
    """How long the parts of a span take to come in over the slowest link that is known.

    None where nobody knows how fast any is.

    Args:
        span_bytes: what one of the parts takes.
    """
    rates = [
        rate
        for capacity in capacities
        for rate in (capacity.up_bytes_per_s, capacity.down_bytes_per_s)
        if rate
    ]
    if not rates:
        return None
    senders = sum(capacity.contributes for capacity in capacities) - 1
    return span_bytes * senders / min(rates)


def in_order(joins: Sequence[Join]) -> tuple[Join, ...]:
    """Members as a group lists them: the first, its leader, then the others by rank."""
    leader = joins[0]
    return (leader, *sorted(joins[1:], key=lambda join: rank(leader.round.parent, join.peer_id)))


def capacities_of(members: Sequence[Join], *, over_relay: bool = False) -> tuple[Capacity, ...]:
    """What the members of a group say that they can do; one that is alone averages for itself.

    Args:
        over_relay: whether only the first averages, whatever path leads to it.
    """
    alone = len(members) == 1
    table = PathTable(members)
    return tuple(
        Capacity(
            contributes=join.role != "aux",
            aggregates=number == 0 if over_relay or alone else table.aggregates(number),
            up_bytes_per_s=join.up_bytes_per_s or None,
            down_bytes_per_s=join.down_bytes_per_s or None,
        )
        for number, join in enumerate(members)
    )


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
        terms=body.terms,
        role=body.role,
        weight_cap=body.weight_cap,
        up_bytes_per_s=body.up_bytes_per_s,
        down_bytes_per_s=body.down_bytes_per_s,
        nonce=body.nonce,
        addresses=body.addresses,
        previous=_hash_or_empty_untrusted(body.previous),
        abandoned=body.abandoned,
        bucket=body.bucket,
        signature=signed.signature,
        paths=body.paths,
        reference=_hash_or_empty_untrusted(body.reference),
    )
    check_paths_untrusted(join.paths)
    if join.role == "aux" and join.weight_cap:
        raise MessageInvalid("an auxiliary peer declares a weight, but contributes nothing")
    if _join_bytes(join) != signed.body:
        raise MessageInvalid("a JOIN is not in canonical form")
    if not verify_signature(join.peer_id, _SIGNING_CONTEXT + signed.body, signed.signature):
        raise MessageInvalid("a JOIN is not signed by the peer that it names")
    return join


def form_group(
    joins: Sequence[Join],
    *,
    chunk_elements: int,
    span_elements: Sequence[int],
    deadline_s: float,
    attempt: int,
    previous: bytes,
    over_relay: bool = False,
) -> tuple[Group, bytes]:
    """Make a group of JOINs for one round, the leader's first; returns it and its body."""
    group = Group(
        group_id=b"",
        round=joins[0].round,
        members=in_order(joins),
        chunk_elements=chunk_elements,
        span_elements=tuple(span_elements),
        deadline_s=deadline_s,
        attempt=attempt,
        previous=previous,
        over_relay=over_relay,
    )
    body = body_of(group)
    return replace(group, group_id=hashlib.sha256(body).digest()), body


def body_of(group: Group) -> bytes:
    """The bytes whose SHA-256 is the group's id; any member can show them to another."""
    return encode(
        schema.GroupBody(
            tuple(join_on_wire(join) for join in group.members),
            group.chunk_elements,
            group.span_elements,
            group.deadline_s,
            group.attempt,
            group.previous,
            group.over_relay,
        )
    )


def parse_group_untrusted(data: bytes) -> Group:
    """Check a group's body: form, signatures, one round and spec for all, and the order.

    Whether the spans fit the vector is for check_plan_untrusted.

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
    if leader.role == "client":
        raise MessageInvalid("a group is led by a client, which cannot be dialed")
    if all(join.role == "aux" for join in members):
        raise MessageInvalid("a group has no member that contributes")
    if members != in_order(members):
        raise MessageInvalid("a group's members are not ordered by rank")
    return Group(
        group_id=hashlib.sha256(data).digest(),
        round=leader.round,
        members=members,
        chunk_elements=body.chunk_elements,
        span_elements=body.span_elements,
        deadline_s=body.deadline_s,
        attempt=body.attempt,
        previous=_hash_or_empty_untrusted(body.previous),
        over_relay=body.over_relay,
    )


def _shared(join: Join) -> tuple[str, RoundId, bytes, str, str]:
    """What all members of a group must have alike."""
    return (join.group_name, join.round, join.spec_hash, join.terms, join.bucket)


def _join_bytes(join: Join) -> bytes:
    return encode(
        schema.JoinBody(
            join.peer_id,
            join.group_name,
            schema.round_on_wire(join.round),
            join.spec_hash,
            join.terms,
            join.role,
            join.weight_cap,
            join.up_bytes_per_s,
            join.down_bytes_per_s,
            join.nonce,
            join.addresses,
            join.previous,
            join.abandoned,
            join.bucket,
            join.paths,
            join.reference,
        )
    )


def _hash_or_empty_untrusted(value: bytes) -> bytes:
    if value and len(value) != schema.HASH_SIZE_BYTES:
        raise MessageInvalid(f"a group id of {len(value)} bytes")
    return value
