"""Every message of the all-reduce, its limits, and its place: `/manyhands/allreduce.<group>/1`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p import Message, Method

MAJOR = 1
MEMBERS_MAX = 256
"""Groups are smaller by default; simulations go up to this."""
_GROUP_BYTES_MAX = MEMBERS_MAX * 3_200 + 1_024
"""As matchmaking bounds it."""
CHUNKS_MAX = 65_536
"""In one span: 8.6 milliard elements."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
ChunkNumber = Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]
ChunkCount = Annotated[int, Meta(ge=0, le=CHUNKS_MAX)]
MemberNumber = Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]
Reason = Annotated[str, Meta(max_length=200)]
SpanDigests = Annotated[tuple[Digest, ...], Meta(max_length=MEMBERS_MAX)]


class Hello(Message, frozen=True, tag="hello"):
    """Opens a member's stream to an aggregator; the signature binds the weight to the group."""

    group_id: Digest
    weight: float
    signature: Signature


class Part(Message, frozen=True, tag="part"):
    """The payload is the member's values for one chunk."""

    chunk: ChunkNumber


class Ping(Message, frozen=True, tag="ping"):
    """I am here and have nothing to say."""


class Vote(Message, frozen=True, tag="vote"):
    """I hold exactly these spans, and will never vote for others in this group."""

    spans: SpanDigests
    signature: Signature


class Result(Message, frozen=True, tag="result"):
    """The payload is the mean of one chunk, the same bytes for every member."""

    chunk: ChunkNumber


class SpanEnd(Message, frozen=True, tag="span_end"):
    """All of a span has been sent: what it is, and who is in it."""

    group_id: Digest
    owner: MemberNumber
    """Counted among the group's aggregators."""
    chunks: Annotated[tuple[Digest, ...], Meta(max_length=CHUNKS_MAX)]
    """BLAKE3 of each chunk's bytes."""
    included: Annotated[tuple[ChunkCount, ...], Meta(max_length=MEMBERS_MAX)]
    """For each member in group order, how many chunks from the first contain it."""
    weights: Annotated[tuple[float, ...], Meta(max_length=MEMBERS_MAX)]
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=MEMBERS_MAX)]
    """Why a member is not in all chunks; empty for the others."""
    signature: Signature


class Commit(Message, frozen=True, tag="commit"):
    """A certificate: a quorum's votes for the same spans; it proves itself, whoever shows it."""

    spans: SpanDigests
    voters: Annotated[tuple[MemberNumber, ...], Meta(max_length=MEMBERS_MAX)]
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=MEMBERS_MAX)]


class Abort(Message, frozen=True, tag="abort"):
    """This span cannot be averaged by anyone: the attempt is over."""

    reason: Reason


class SpanStatus(Message, frozen=True):
    """How a member stands to a span: 0 it may still come, 1 held, 2 lost, 3 lost here, but one
    that this member asks may have it.
    """

    state: Annotated[int, Meta(ge=0, le=3)]
    digest: Annotated[bytes, Meta(max_length=32)] = b""


class Promise(Message, frozen=True):
    """A member's signed word that it will never vote in this group; anyone may pass it on."""

    member: MemberNumber
    signature: Signature


class Question(Message, frozen=True):
    """What do you hold and know of this group?"""

    group_id: Digest
    promise: Promise | None = None
    """The asker's own, if it has given up the group."""
    gone: bool = False
    """The asker's step has ended: do not wait for it in the next attempt."""


class Answer(Message, frozen=True):
    """How a member stands in a group."""

    spans: Annotated[tuple[SpanStatus, ...], Meta(max_length=MEMBERS_MAX)]
    vote: Vote | None = None
    commit: Commit | None = None
    promises: Annotated[tuple[Promise, ...], Meta(max_length=MEMBERS_MAX)] = ()
    """All that the member knows of."""
    gone: bool = False


class Fetch(Message, frozen=True, tag="fetch"):
    """Send me this span, from this chunk on."""

    group_id: Digest
    owner: MemberNumber
    digest: Digest
    first_chunk: ChunkNumber = 0


class WhichGroup(Message, frozen=True):
    """You know a group that I do not: show it to me."""

    group_id: Digest


class ShownGroup(Message, frozen=True):
    """A group's body; its SHA-256 is the group id."""

    body: Annotated[bytes, Meta(max_length=_GROUP_BYTES_MAX)]


FromMember = Hello | Part | Vote | Ping
FromAggregator = Result | SpanEnd | Commit | Abort | Ping
FromHolder = SpanEnd | Result

_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""A SpanEnd names each chunk; all other messages stay far below."""
_PAYLOAD_BYTES_MAX = 1024 * 1024
"""The largest chunk in float64."""

TRANSFER: Method[FromMember, FromAggregator] = Method(
    "transfer",
    FromMember,  # type: ignore[arg-type]
    FromAggregator,  # type: ignore[arg-type]
    response_bytes_max=_MESSAGE_BYTES_MAX,
    payload_bytes_max=_PAYLOAD_BYTES_MAX,
)
ASK: Method[Question, Answer] = Method("ask", Question, Answer, response_bytes_max=131_072)
SHOW: Method[WhichGroup, ShownGroup] = Method(
    "show", WhichGroup, ShownGroup, response_bytes_max=_GROUP_BYTES_MAX + 64
)
FETCH: Method[Fetch, FromHolder] = Method(
    "fetch",
    Fetch,
    FromHolder,  # type: ignore[arg-type]
    response_bytes_max=_MESSAGE_BYTES_MAX,
    payload_bytes_max=_PAYLOAD_BYTES_MAX,
)
