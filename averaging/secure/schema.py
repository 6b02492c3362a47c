"""Every message of secure aggregation, its limits, and `/manyhands/secure.<group>/1`.

Each member holds one stream to each aggregator, the first of which is the coordinator. On it go

    to the coordinator   Keys, Shares | Complaint, Complete, Held, Agreement, Reveal
    from the coordinator AllKeys, AllShares, Plan, Survivors, SignNow, Certificate, Secrets | Failed
                         and, when it has nothing to say, Ping
    to an aggregator     Part                       from an aggregator   SumPart, SumEnd
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from averaging.secure.sealing import KEY_SIZE_BYTES, TAG_SIZE_BYTES
from averaging.secure.shamir import SECRET_SIZE_BYTES, SHARE_SIZE_BYTES
from p2p import Message, Method

SERVICE = "secure"
MAJOR = 1
MEMBERS_MAX = 64
"""Each member adds a mask for each other one, so that its work grows with the group."""
PLANS_MAX = 2 * MEMBERS_MAX
ELEMENTS_MAX = 2**40
BOX_SIZE_BYTES = 2 * SHARE_SIZE_BYTES + TAG_SIZE_BYTES
HASH_SIZE_BYTES = 32
CHUNK_BYTES_MAX = 524_288

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
PublicKey = Annotated[bytes, Meta(min_length=KEY_SIZE_BYTES, max_length=KEY_SIZE_BYTES)]
Share = Annotated[bytes, Meta(min_length=SHARE_SIZE_BYTES, max_length=SHARE_SIZE_BYTES)]
Secret = Annotated[bytes, Meta(min_length=SECRET_SIZE_BYTES, max_length=SECRET_SIZE_BYTES)]
Box = Annotated[bytes, Meta(max_length=BOX_SIZE_BYTES)]
Hashes = Annotated[bytes, Meta(max_length=2 * HASH_SIZE_BYTES * MEMBERS_MAX)]
Number = Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]
"""Of a member, in the group's order; or of a span, in the aggregators'."""
Numbers = Annotated[tuple[Number, ...], Meta(max_length=MEMBERS_MAX)]
PlanNumber = Annotated[int, Meta(ge=0, lt=PLANS_MAX)]
Element = Annotated[int, Meta(ge=0, lt=ELEMENTS_MAX)]
Reason = Annotated[str, Meta(max_length=300)]


class Hello(Message, frozen=True, tag="hello"):
    """Opens a member's stream to an aggregator."""

    group_id: Digest


class Keys(Message, frozen=True, tag="keys"):
    """A member's ephemeral keys for this group, and a commitment to the seed of its own mask."""

    member: Number
    channel_key: PublicKey
    """Seals the shares that it is sent."""
    mask_key: PublicKey
    """Agrees on the seeds of the masks that it has in common with each other member."""
    seed_hash: Digest
    signature: Signature


class AllKeys(Message, frozen=True, tag="all_keys"):
    """Who takes part, in the group's order."""

    keys: Annotated[tuple[Keys, ...], Meta(max_length=MEMBERS_MAX)]


class Shares(Message, frozen=True, tag="shares"):
    """A member's shares of its two secrets, sealed for each other member."""

    member: Number
    hashes: Hashes
    """For each of AllKeys, in order: of the share of the seed, then of that of the key."""
    boxes: Annotated[tuple[Box, ...], Meta(max_length=MEMBERS_MAX)]
    """For each of AllKeys, in order; empty for the member itself."""
    signature: Signature
    """Of all but the boxes, which prove themselves to those who can open them."""


class Dealt(Message, frozen=True):
    """What one member dealt, as another gets it."""

    dealer: Number
    hashes: Hashes
    box: Box
    signature: Signature


class AllShares(Message, frozen=True, tag="all_shares"):
    """Who dealt, in the group's order: from now on masks are among them."""

    dealt: Annotated[tuple[Dealt, ...], Meta(max_length=MEMBERS_MAX)]


class Complaint(Message, frozen=True, tag="complaint"):
    """A member's share from this dealer is not what the dealer signed."""

    dealer: Number


class Part(Message, frozen=True, tag="part"):
    """The payload is a run of the member's masked vector; runs of a span come in order."""

    span: Number
    start: Element


class Complete(Message, frozen=True, tag="complete"):
    """The aggregator holds all of this member's part of its span."""

    span: Number
    sender: Number


class Plan(Message, frozen=True, tag="plan"):
    """Who adds up each span from now on, since an aggregator was lost."""

    number: PlanNumber
    owners: Numbers


class Survivors(Message, frozen=True, tag="survivors"):
    """Whose vectors are to be in the sum."""

    plan: PlanNumber
    members: Numbers


class SumPart(Message, frozen=True, tag="sum_part"):
    """The payload is a run of the survivors' sum, masked still; runs of a span come in order."""

    plan: PlanNumber
    span: Number
    start: Element


class SumEnd(Message, frozen=True, tag="sum_end"):
    """All of a span's masked sum has been sent."""

    plan: PlanNumber
    span: Number
    owner: Number
    survivors: Digest
    digest: Digest
    """BLAKE3 of its bytes."""
    signature: Signature


class Held(Message, frozen=True, tag="held"):
    """The member holds a span's masked sum."""

    end: SumEnd


class SignNow(Message, frozen=True, tag="sign_now"):
    """Enough members hold the same masked sum: sign it."""

    plan: PlanNumber


class Agreement(Message, frozen=True, tag="agreement"):
    """The one set of survivors and the one masked sum that this member signs in this group."""

    member: Number
    plan: PlanNumber
    survivors: Numbers
    digest: Digest
    """Of the keys, the dealt shares, and all spans' masked sums."""
    signature: Signature


class Certificate(Message, frozen=True, tag="certificate"):
    """The agreements of as many survivors as the threshold; it proves itself."""

    plan: PlanNumber
    survivors: Numbers
    digest: Digest
    signers: Numbers
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=MEMBERS_MAX)]


class Reveal(Message, frozen=True, tag="reveal"):
    """For each member one share: a survivor's of its seed, else of its mask key; never both."""

    member: Number
    seeds: Annotated[tuple[Share, ...], Meta(max_length=MEMBERS_MAX)]
    """Of the survivors, in order."""
    keys: Annotated[tuple[Share, ...], Meta(max_length=MEMBERS_MAX)]
    """Of those who dealt and are no survivors, in order."""


class Secrets(Message, frozen=True, tag="secrets"):
    """What the revealed shares give: with it the masks come off the sum."""

    seeds: Annotated[tuple[Secret, ...], Meta(max_length=MEMBERS_MAX)]
    keys: Annotated[tuple[Secret, ...], Meta(max_length=MEMBERS_MAX)]


class Ping(Message, frozen=True, tag="ping"):
    """The coordinator is here, and has nothing to say."""


class Failed(Message, frozen=True, tag="failed"):
    """The coordinator ends the attempt."""

    reason: Reason
    blamed: Numbers = ()
    """Who is not to be waited for in the next one; one that is told of itself is left out."""


ToCoordinator = Keys | Shares | Complaint | Complete | Held | Agreement | Reveal
FromCoordinator = AllKeys | AllShares | Plan | Survivors | SignNow | Certificate | Secrets | Failed
FromMember = Hello | Part | ToCoordinator
FromAggregator = SumPart | SumEnd | Ping | FromCoordinator

_MESSAGE_BYTES_MAX = 524_288
"""The largest is AllShares: 64 times 4.3 KiB."""

LINK: Method[FromMember, FromAggregator] = Method(
    "link",
    FromMember,  # type: ignore[arg-type]
    FromAggregator,  # type: ignore[arg-type]
    request_bytes_max=_MESSAGE_BYTES_MAX,
    response_bytes_max=_MESSAGE_BYTES_MAX,
    payload_bytes_max=CHUNK_BYTES_MAX,
)
