"""What is signed in a round, and how it is checked: weights, spans, votes, certificates (core).

A span's digest covers its bytes and its table of members; the manifest is the list of span
digests; a vote signs the manifest together with the group id. So a certificate proves, to anyone
who knows the group, which bytes a quorum of voters agreed on, and what those bytes contain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from averaging.allreduce.partition import Span
from averaging.allreduce.schema import Commit, Hello, Promise, SpanEnd, Vote
from p2p import MessageInvalid, PeerId, verify_signature

Sign = Callable[[bytes], bytes]
Spans = tuple[bytes, ...]

_NO_SIGNATURE = bytes(64)


def _signed_bytes(what: str, *fields: Any) -> bytes:
    # The name in front keeps a signature of one kind from passing as another's.
    return msgspec.msgpack.encode((f"manyhands/allreduce/1/{what}", *fields))


def signed_hello(group_id: bytes, weight: float, sign: Sign) -> Hello:
    """A member's declaration of its weight."""
    weight = float(weight)
    return Hello(group_id, weight, sign(_signed_bytes("hello", group_id, weight)))


def check_hello_untrusted(hello: Hello, member: PeerId) -> None:
    """Raise MessageInvalid unless the member signed this weight for this group."""
    signed = _signed_bytes("hello", hello.group_id, hello.weight)
    if not verify_signature(member, signed, hello.signature):
        raise MessageInvalid("a hello has a wrong signature")


def span_digest(end: SpanEnd) -> bytes:
    """Names a span's bytes and who is in them; the signature is not part of it."""
    body = msgspec.structs.replace(end, signature=_NO_SIGNATURE)
    return hashlib.sha256(_signed_bytes("span", body)).digest()


def signed_span_end(end: SpanEnd, sign: Sign) -> SpanEnd:
    """The same, signed by its aggregator."""
    return msgspec.structs.replace(end, signature=sign(_signed_bytes("span-end", span_digest(end))))


def check_span_end_untrusted(
    end: SpanEnd, group_id: bytes, aggregators: Sequence[PeerId], span: Span, member_count: int
) -> None:
    """Raise MessageInvalid unless the span's aggregator signed it and it fits the group."""
    if end.group_id != group_id or end.owner != span.owner:
        raise MessageInvalid("a span end belongs to another span")
    if len(end.chunks) != len(span.chunks):
        raise MessageInvalid("a span end has a wrong number of chunks")
    if not len(end.included) == len(end.weights) == len(end.reasons) == member_count:
        raise MessageInvalid("a span end has a wrong number of members")
    if any(count > len(span.chunks) for count in end.included):
        raise MessageInvalid("a span end includes a member in chunks that do not exist")
    if not all(0 <= weight < float("inf") for weight in end.weights):
        raise MessageInvalid("a span end has an impossible weight")
    signed = _signed_bytes("span-end", span_digest(end))
    if not verify_signature(aggregators[span.owner], signed, end.signature):
        raise MessageInvalid("a span end has a wrong signature")


def manifest_digest(group_id: bytes, spans: Spans) -> bytes:
    """Names the whole result of a group."""
    return hashlib.sha256(_signed_bytes("manifest", group_id, spans)).digest()


def signed_vote(group_id: bytes, spans: Spans, sign: Sign) -> Vote:
    """A vote for these spans; the caller must never sign another in this group."""
    return Vote(spans, sign(_signed_bytes("vote", group_id, manifest_digest(group_id, spans))))


def check_vote_untrusted(vote: Vote, group_id: bytes, voter: PeerId, span_count: int) -> None:
    """Raise MessageInvalid unless the voter signed this vote in this group."""
    if len(vote.spans) != span_count:
        raise MessageInvalid("a vote names a wrong number of spans")
    signed = _signed_bytes("vote", group_id, manifest_digest(group_id, vote.spans))
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
    span_count: int,
    quorum_reached: Callable[[Sequence[PeerId], Collection[PeerId]], bool],
) -> None:
    """Raise MessageInvalid unless a quorum of the voters signed for these spans."""
    numbers = commit.voters
    if len(commit.spans) != span_count or len(numbers) != len(commit.signatures):
        raise MessageInvalid("a certificate has a wrong number of spans or signatures")
    if len(set(numbers)) != len(numbers) or any(number >= len(voters) for number in numbers):
        raise MessageInvalid("a certificate names a voter twice, or one who is none")
    signers = [voters[number] for number in numbers]
    if not quorum_reached(voters, signers):
        raise MessageInvalid("a certificate has no quorum")
    for signer, signature in zip(signers, commit.signatures, strict=True):
        check_vote_untrusted(Vote(commit.spans, signature), group_id, signer, span_count)
