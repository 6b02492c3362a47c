"""Every message of the all-reduce, its limits, and its place: `/manyhands/allreduce.<group>/1`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from averaging.allreduce.partition import PIECES_PER_SPAN_MAX
from p2p import Message, Method

MAJOR = 1
MEMBERS_MAX = 256
"""Groups are smaller by default; simulations go up to this."""
_GROUP_BYTES_MAX = MEMBERS_MAX * 3_200 + 1_024
"""As matchmaking bounds it."""
PIECES_MAX = MEMBERS_MAX * PIECES_PER_SPAN_MAX
CHUNKS_MAX = 16_384
"""In one piece: 2.1 milliard elements."""
PLAN_ROUNDS_MAX = 32
"""How often the work of lost aggregators is given to others in one group."""
EVIDENCE_MAX = 4
"""Piece ends in one answer; together they name at most CHUNKS_MAX chunks."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
PieceNumber = Annotated[int, Meta(ge=0, lt=PIECES_MAX)]
ChunkNumber = Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]
ChunkCount = Annotated[int, Meta(ge=0, le=CHUNKS_MAX)]
MemberNumber = Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]
PlanNumber = Annotated[int, Meta(ge=0, lt=(PLAN_ROUNDS_MAX + 1) * MEMBERS_MAX)]
Reason = Annotated[str, Meta(max_length=200)]
PieceDigests = Annotated[tuple[Digest, ...], Meta(max_length=PIECES_MAX)]


class Hello(Message, frozen=True, tag="hello"):
    """Opens a member's stream to an aggregator."""

    group_id: Digest


class Weight(Message, frozen=True, tag="weight"):
    """The member's values are final: this is their weight, and how long the vector is."""

    weight: float
    norm: float
    """L2 norm of the values as they travel."""
    signature: Signature
    """Binds both to the group."""


class Part(Message, frozen=True, tag="part"):
    """The payload is the member's values for one chunk."""

    piece: PieceNumber
    chunk: ChunkNumber


class Ping(Message, frozen=True, tag="ping"):
    """I am here and have nothing to say."""


class Vote(Message, frozen=True, tag="vote"):
    """I hold exactly these pieces, and will never vote for others in this group."""

    pieces: PieceDigests
    signature: Signature


class Result(Message, frozen=True, tag="result"):
    """The payload is the mean of one chunk, the same bytes for every member."""

    piece: PieceNumber
    chunk: ChunkNumber


class PieceEnd(Message, frozen=True, tag="piece_end"):
    """All of a piece has been sent: what it is, and who is in it."""

    group_id: Digest
    piece: PieceNumber
    owner: MemberNumber
    """Counted among the group's aggregators."""
    plan: PlanNumber
    """Which plan made it the owner; 0 for the group itself."""
    chunks: Annotated[tuple[Digest, ...], Meta(max_length=CHUNKS_MAX)]
    """BLAKE3 of each chunk's bytes."""
    included: Annotated[tuple[ChunkCount, ...], Meta(max_length=MEMBERS_MAX)]
    """For each member in group order, how many chunks from the first contain it."""
    weights: Annotated[tuple[float, ...], Meta(max_length=MEMBERS_MAX)]
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=MEMBERS_MAX)]
    """Why a member is not in all chunks; empty for the others."""
    signature: Signature
    norms: Annotated[tuple[float, ...], Meta(max_length=MEMBERS_MAX)] = ()
    """The L2 norm that each member declared; 0 for those of weight 0."""


class Excluded(Message, frozen=True, tag="excluded"):
    """The aggregator takes no more from this member, which need not send any; results come."""

    reason: Reason


class Commit(Message, frozen=True, tag="commit"):
    """A certificate: a quorum's votes for the same pieces; it proves itself, whoever shows it."""

    pieces: PieceDigests
    voters: Annotated[tuple[MemberNumber, ...], Meta(max_length=MEMBERS_MAX)]
    """Counted among the group's voters."""
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=MEMBERS_MAX)]


class Abort(Message, frozen=True, tag="abort"):
    """The aggregator cannot average its piece."""

    reason: Reason
    certain: bool
    """Nobody else can either: the attempt is over. Else those whom it lost may reach another."""


class Plan(Message, frozen=True, tag="plan"):
    """Who owns each piece now, since pieces of lost aggregators are with nobody."""

    number: PlanNumber
    """How many plans came before, times MEMBERS_MAX, plus the planner's number in the group."""
    owners: Annotated[tuple[MemberNumber, ...], Meta(max_length=PIECES_MAX)]
    """For each piece, counted among the group's aggregators."""
    signature: Signature


class PieceStatus(Message, frozen=True):
    """How a member stands to a piece: 0 it may still come, 1 held, 2 lost, 3 lost here, but one
    that this member asks may have it.
    """

    state: Annotated[int, Meta(ge=0, le=3)]
    digest: Annotated[bytes, Meta(max_length=32)] = b""


class Promise(Message, frozen=True):
    """A voter's signed word that it will never vote in this group; anyone may pass it on."""

    member: MemberNumber
    signature: Signature


class Question(Message, frozen=True):
    """What do you hold and know of this group?"""

    group_id: Digest
    promise: Promise | None = None
    """The asker's own, if it has given up the group."""
    gone: bool = False
    """The asker's step has ended: do not wait for it in the next attempt."""
    plan: Plan | None = None
    """The newest that the asker follows."""
    vote: Vote | None = None
    """The asker's own: where the answerer's differs, it shows what its pieces were signed with."""


class Answer(Message, frozen=True):
    """How a member stands in a group."""

    pieces: Annotated[tuple[PieceStatus, ...], Meta(max_length=PIECES_MAX)]
    vote: Vote | None = None
    commit: Commit | None = None
    promises: Annotated[tuple[Promise, ...], Meta(max_length=MEMBERS_MAX)] = ()
    """All that the member knows of."""
    gone: bool = False
    plan: Plan | None = None
    open: bool = False
    """Whether the member has not voted, so that it follows the newest plan."""
    evidence: Annotated[tuple[PieceEnd, ...], Meta(max_length=EVIDENCE_MAX)] = ()


class Fetch(Message, frozen=True, tag="fetch"):
    """Send me this piece, from this chunk on."""

    group_id: Digest
    piece: PieceNumber
    digest: Digest
    first_chunk: ChunkNumber = 0


class WhichGroup(Message, frozen=True):
    """You know a group that I do not: show it to me."""

    group_id: Digest


class ShownGroup(Message, frozen=True):
    """A group's body; its SHA-256 is the group id."""

    body: Annotated[bytes, Meta(max_length=_GROUP_BYTES_MAX)]


FromMember = Hello | Weight | Part | Vote | Plan | Ping
FromAggregator = Result | PieceEnd | Excluded | Commit | Abort | Plan | Ping
FromHolder = PieceEnd | Result

_MESSAGE_BYTES_MAX = 1024 * 1024
"""A PieceEnd, alone or as evidence, names each chunk; all other messages stay far below."""
PAYLOAD_BYTES_MAX = 2056 * 1024
"""The largest chunk in float64, with the head of a frame where it begins with one."""

TRANSFER: Method[FromMember, FromAggregator] = Method(
    "transfer",
    FromMember,  # type: ignore[arg-type]
    FromAggregator,  # type: ignore[arg-type]
    response_bytes_max=_MESSAGE_BYTES_MAX,
    payload_bytes_max=PAYLOAD_BYTES_MAX,
)
ASK: Method[Question, Answer] = Method(
    "ask", Question, Answer, response_bytes_max=_MESSAGE_BYTES_MAX
)
SHOW: Method[WhichGroup, ShownGroup] = Method(
    "show", WhichGroup, ShownGroup, response_bytes_max=_GROUP_BYTES_MAX + 64
)
FETCH: Method[Fetch, FromHolder] = Method(
    "fetch",
    Fetch,
    FromHolder,  # type: ignore[arg-type]
    response_bytes_max=_MESSAGE_BYTES_MAX,
    payload_bytes_max=PAYLOAD_BYTES_MAX,
)
