"""The messages of matchmaking, their limits, and the protocol `/manyhands/matchmaking.<group>/1`.

A member opens one JOIN call to a better-ranked peer and keeps it open; the leader answers

    WAIT*  then one of  REDIRECT (ask that one instead) | REFUSE (no, and why) | GROUP (the group)

A leader that misses members calls INVITE at them, once per half second, and learns what they do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from averaging.round_id import PARENT_SIZE_BYTES, RoundId
from p2p import Message, Method

SERVICE = "matchmaking"
MAJOR = 1

GROUP_SIZE_MAX = 256
"""The largest group anybody accepts; the config's own limit is tighter."""
GROUP_NAME_TEXT_MAX = 256
TERMS_TEXT_MAX = 128
ADDRESSES_MAX = 8
HASH_SIZE_BYTES = 32
NONCE_SIZE_BYTES = 16
SIGNATURE_SIZE_BYTES = 64
PATH_DIGEST_SIZE_BYTES = 8
PATHS_MAX = 64
"""Peers that a JOIN names as connected; in larger groups only open members aggregate."""
RELAYED_BYTES_MAX = 2**53
JOIN_BYTES_MAX = 4194
"""Eight long addresses, the longest group name, 64 peers twice, and 494 bytes for the rest."""
ROUND_NUMBER_MAX = 2**53
WEIGHT_MAX = 1e18
DEADLINE_S_MAX = 86_400.0
ATTEMPT_MAX = 10_000
CHUNK_ELEMENTS_MAX = 1 << 24
SPAN_ELEMENTS_MAX = 1 << 48
RATE_BYTES_PER_S_MAX = 10**15
REASON_TEXT_MAX = 400
BUCKET_TEXT_MAX = 16
"""One digit for each bit of the deepest grid."""
_PEER_TEXT_MAX = 64
_ADDRESS_TEXT_MAX = 256

PeerText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=_PEER_TEXT_MAX)]
Addresses: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(max_length=_ADDRESS_TEXT_MAX)], ...],
    Meta(max_length=ADDRESSES_MAX),
]
Hash: TypeAlias = Annotated[bytes, Meta(min_length=HASH_SIZE_BYTES, max_length=HASH_SIZE_BYTES)]
OptionalHash: TypeAlias = Annotated[bytes, Meta(max_length=HASH_SIZE_BYTES)]
RoundNumber: TypeAlias = Annotated[int, Meta(ge=0, le=ROUND_NUMBER_MAX)]
Reason: TypeAlias = Annotated[str, Meta(max_length=REASON_TEXT_MAX)]
Bucket: TypeAlias = Annotated[str, Meta(max_length=BUCKET_TEXT_MAX, pattern="^[01]*$")]
"""The bits that name a bucket of the grid, or empty."""

Role: TypeAlias = Literal["node", "client", "aux"]
"""A node contributes and averages, a client only contributes, an auxiliary peer only averages."""
Rate: TypeAlias = Annotated[int, Meta(ge=0, le=RATE_BYTES_PER_S_MAX)]
"""Bytes a second; 0 means unknown."""

RefusalCode: TypeAlias = Literal[
    "other-round",  # the round field says which one the refuser is in
    "spec-differs",
    "full",
    "closed",  # its group for this round was formed without the caller
    "not-looking",
    "client",  # it cannot be dialed, so it never leads
    "lost-last-round",
    "no-path",  # nobody here could average with the caller, since only relays lead to it
    "other-bucket",  # the bucket field says which one the refuser is in, round when
]

InviteState: TypeAlias = Literal[
    "idle", "leading", "following", "closed", "other-round", "spec-differs", "other-bucket"
]


class RoundOnWire(Message, frozen=True):
    """Which round, built on which result."""

    number: RoundNumber
    parent: Annotated[bytes, Meta(min_length=PARENT_SIZE_BYTES, max_length=PARENT_SIZE_BYTES)]

    def round_id(self) -> RoundId:
        """The same as the rest of the layer knows it."""
        return RoundId(self.number, self.parent)


def round_on_wire(round_id: RoundId) -> RoundOnWire:
    """A round as it travels."""
    return RoundOnWire(round_id.number, round_id.parent)


Digests: TypeAlias = Annotated[bytes, Meta(max_length=PATHS_MAX * PATH_DIGEST_SIZE_BYTES)]
"""Short names of peers, one after the other."""


class Paths(Message, frozen=True):
    """How a member is connected, as it says."""

    open: bool = True
    """Whether anybody can dial it without a relay."""
    near: Digests = b""
    """To whom it is connected without a relay."""
    relayed: Digests = b""
    """Of a leader: who came to it through a relay that carries the whole vector."""
    relayed_bytes: Annotated[int, Meta(ge=0, le=RELAYED_BYTES_MAX)] = 0
    """What each of those circuits carries each way, by the relays' word; 0 without any."""


class JoinBody(Message, frozen=True):
    """What a member signs: that it will take part in this round, and how."""

    peer_id: PeerText
    group_name: Annotated[str, Meta(max_length=GROUP_NAME_TEXT_MAX)]
    round: RoundOnWire
    spec_hash: Hash
    terms: Annotated[str, Meta(max_length=TERMS_TEXT_MAX)]
    role: Role
    weight_cap: Annotated[float, Meta(ge=0, le=WEIGHT_MAX)]
    up_bytes_per_s: Rate
    down_bytes_per_s: Rate
    nonce: Annotated[bytes, Meta(min_length=NONCE_SIZE_BYTES, max_length=NONCE_SIZE_BYTES)]
    addresses: Addresses
    previous: OptionalHash
    abandoned: bool
    bucket: Bucket = ""
    """Of the grid; members of one group are in one bucket."""
    paths: Paths = Paths()
    reference: OptionalHash = b""
    """Digest of the result that its values are told by their difference from, if they are."""


class SignedJoin(Message, frozen=True):
    """A JOIN in the bytes that its member signed; they are passed on as they are."""

    body: Annotated[bytes, Meta(max_length=JOIN_BYTES_MAX)]
    signature: Annotated[
        bytes, Meta(min_length=SIGNATURE_SIZE_BYTES, max_length=SIGNATURE_SIZE_BYTES)
    ]


class JoinRequest(Message, frozen=True):
    """Member to leader: take me in."""

    join: SignedJoin
    previous_voters: Annotated[tuple[PeerText, ...], Meta(max_length=GROUP_SIZE_MAX)] = ()
    """Of the failed group that the JOIN names, in its order: the leader may not have been in it."""
    follows: bool = False
    """Told of a later round, it comes again for that one: worth waiting for."""


class Wait(Message, frozen=True, tag="wait"):
    """Leader to member, each half second: still here. Not ready: not yet looking for this round."""

    ready: bool
    joined_count: Annotated[int, Meta(ge=0, le=GROUP_SIZE_MAX)] = 0
    missing_count: Annotated[int, Meta(ge=0, le=ROUND_NUMBER_MAX)] = 0
    obstacle: Reason = ""
    """Why it cannot close the group as it is, though nobody is waited for any longer."""


class Redirect(Message, frozen=True, tag="redirect"):
    """Leader to member: I follow that one; ask it instead."""

    peer_id: PeerText
    addresses: Addresses = ()


class Refuse(Message, frozen=True, tag="refuse"):
    """Leader to member: no, and why."""

    code: RefusalCode
    message: Reason = ""
    round: RoundOnWire | None = None
    bucket: Bucket = ""
    """With other-bucket: the one that the refuser is in."""


class GroupFormed(Message, frozen=True, tag="group"):
    """Leader to every member: the group, in the bytes whose SHA-256 is its id."""

    body: Annotated[bytes, Meta(max_length=GROUP_SIZE_MAX * (JOIN_BYTES_MAX + 137))]
    last_arrival_s: Annotated[float, Meta(ge=0, le=DEADLINE_S_MAX)] = 0.0
    """How long after the leader was ready its last member came: what all learn to wait."""


class GroupBody(Message, frozen=True):
    """The members' own JOINs (leader first, then by rank) and what the leader decides for all."""

    joins: Annotated[tuple[SignedJoin, ...], Meta(min_length=1, max_length=GROUP_SIZE_MAX)]
    chunk_elements: Annotated[int, Meta(ge=1, le=CHUNK_ELEMENTS_MAX)]
    span_elements: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=SPAN_ELEMENTS_MAX)], ...],
        Meta(min_length=1, max_length=GROUP_SIZE_MAX),
    ]
    """One for each member that averages, in the members' order."""
    deadline_s: Annotated[float, Meta(gt=0, le=DEADLINE_S_MAX)]
    attempt: Annotated[int, Meta(ge=0, le=ATTEMPT_MAX)]
    previous: OptionalHash
    over_relay: bool = False
    """Whether the leader alone averages, and relays carry that, since nobody else can."""


LeaderMessage: TypeAlias = Wait | Redirect | Refuse | GroupFormed
FinalMessage: TypeAlias = Redirect | Refuse | GroupFormed


class Invite(Message, frozen=True):
    """A leader asks an absent peer: I gather for this round, what do you do?"""

    round: RoundOnWire
    spec_hash: Hash
    addresses: Addresses = ()
    previous: OptionalHash = b""
    ranked_last: bool = False
    """Whether the inviter passed over the invited one, which then had better come to it."""
    bucket: Bucket = ""
    follows: bool = False
    """As in a JoinRequest."""


class InviteAnswer(Message, frozen=True):
    """What the invited peer does at the moment."""

    state: InviteState
    round: RoundOnWire | None = None
    """With other-round and other-bucket: the round it is in."""
    leader: Annotated[str, Meta(max_length=_PEER_TEXT_MAX)] = ""
    """With following: whom."""
    leader_addresses: Addresses = ()
    ranked_last: bool = False
    """Whether the invited one passed over the inviter for this round."""
    bucket: Bucket = ""
    """With other-bucket: the one it is in."""
    spec_hash: OptionalHash = b""
    """With spec-differs: what it averages."""


class CandidateRecord(Message, frozen=True):
    """The value of a peer's signed record in the DHT: where it is, and what it averages."""

    addresses: Addresses
    round: RoundOnWire
    spec_hash: Hash
    bucket: Bucket = ""


RECORD_BYTES_MAX = 4096
# Beside each JOIN its signature and headers, and nine bytes for its span.
_GROUP_BYTES_MAX = GROUP_SIZE_MAX * (JOIN_BYTES_MAX + 137) + 1024

JOIN: Method[JoinRequest, Any] = Method(
    "join",
    JoinRequest,
    LeaderMessage,  # type: ignore[arg-type]  # a union of structs decodes like one type
    request_bytes_max=JOIN_BYTES_MAX + GROUP_SIZE_MAX * (_PEER_TEXT_MAX + 4) + 256,
    response_bytes_max=_GROUP_BYTES_MAX,
)
INVITE: Method[Invite, InviteAnswer] = Method(
    "invite", Invite, InviteAnswer, request_bytes_max=4096, response_bytes_max=4096
)
