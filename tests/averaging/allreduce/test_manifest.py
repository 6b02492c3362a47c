"""What is signed in a round: it binds what it should, and nothing false passes."""

import random
from collections.abc import Callable

import msgspec
import pytest

from averaging.allreduce import manifest
from averaging.allreduce.partition import partition
from averaging.allreduce.schema import Commit, Hello, SpanEnd, Vote
from averaging.matchmaking.group import quorum_reached
from p2p import Identity, MessageInvalid

RNG = random.Random(1)
IDENTITIES = [Identity.generate(RNG) for _ in range(3)]
MEMBERS = [identity.peer_id for identity in IDENTITIES]
GROUP = b"g" * 32
OTHER_GROUP = b"h" * 32
SPANS = (b"a" * 32, b"b" * 32)
SPAN = partition(12_000, 2, 4096)[1]


def span_end() -> SpanEnd:
    end = SpanEnd(
        group_id=GROUP,
        owner=1,
        chunks=(b"x" * 32, b"y" * 32),
        included=(2, 1, 0),
        weights=(1.0, 2.5, 0.0),
        reasons=("", "silent", ""),
        signature=bytes(64),
    )
    return manifest.signed_span_end(end, IDENTITIES[1].sign)


def check_end(end: SpanEnd) -> None:
    manifest.check_span_end_untrusted(end, GROUP, MEMBERS, SPAN, 3)


def test_a_true_span_end_passes() -> None:
    assert len(SPAN.chunks) == 2
    check_end(span_end())


@pytest.mark.parametrize(
    "change",
    [
        {"group_id": OTHER_GROUP},
        {"owner": 0},
        {"chunks": (b"x" * 32,)},
        {"chunks": (b"x" * 32, b"z" * 32)},
        {"included": (2, 1, 1)},
        {"included": (2, 1)},
        {"included": (3, 1, 0)},
        {"weights": (1.0, 2.0, 0.0)},
        {"weights": (1.0, float("nan"), 0.0)},
        {"weights": (1.0, -2.5, 0.0)},
        {"weights": (1.0,)},
        {"reasons": ("", "", "")},
        {"reasons": ()},
        {"signature": bytes(64)},
    ],
)
def test_a_changed_span_end_is_invalid(change: dict[str, object]) -> None:
    with pytest.raises(MessageInvalid):
        check_end(msgspec.structs.replace(span_end(), **change))


def test_a_false_table_is_invalid_even_when_signed() -> None:
    end = msgspec.structs.replace(span_end(), weights=(1.0, float("inf"), 0.0))
    with pytest.raises(MessageInvalid, match="weight"):
        check_end(manifest.signed_span_end(end, IDENTITIES[1].sign))


def test_a_span_end_of_another_signer_is_invalid() -> None:
    with pytest.raises(MessageInvalid, match="signature"):
        check_end(manifest.signed_span_end(span_end(), IDENTITIES[0].sign))


def test_the_digest_covers_everything_but_the_signature() -> None:
    end = span_end()
    digest = manifest.span_digest(end)
    assert manifest.span_digest(msgspec.structs.replace(end, signature=b"s" * 64)) == digest
    assert manifest.span_digest(msgspec.structs.replace(end, reasons=("", "", ""))) != digest


def test_a_hello_binds_weight_group_and_member() -> None:
    hello = manifest.signed_hello(GROUP, 2, IDENTITIES[0].sign)
    manifest.check_hello_untrusted(hello, MEMBERS[0])
    for false in (Hello(GROUP, 3.0, hello.signature), Hello(OTHER_GROUP, 2.0, hello.signature)):
        with pytest.raises(MessageInvalid):
            manifest.check_hello_untrusted(false, MEMBERS[0])
    with pytest.raises(MessageInvalid):
        manifest.check_hello_untrusted(hello, MEMBERS[1])


def votes() -> list[Vote]:
    return [manifest.signed_vote(GROUP, SPANS, identity.sign) for identity in IDENTITIES]


def check_commit(commit: Commit) -> None:
    manifest.check_commit_untrusted(commit, GROUP, MEMBERS, 2, quorum_reached)


def commit_of(*numbers: int) -> Commit:
    return Commit(SPANS, numbers, tuple(votes()[number].signature for number in numbers))


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (2, 0, 1)])
def test_a_quorum_certifies(numbers: tuple[int, ...]) -> None:
    check_commit(commit_of(*numbers))


@pytest.mark.parametrize(
    "falsify",
    [
        lambda: commit_of(0),
        lambda: commit_of(),
        lambda: commit_of(1, 1),
        lambda: msgspec.structs.replace(commit_of(0, 1), voters=(0, 2)),
        lambda: msgspec.structs.replace(commit_of(0, 1), voters=(0, 3)),
        lambda: msgspec.structs.replace(commit_of(0, 1), voters=(0, 1, 2)),
        lambda: msgspec.structs.replace(commit_of(0, 1), spans=SPANS[::-1]),
        lambda: msgspec.structs.replace(commit_of(0, 1), spans=SPANS[:1]),
    ],
)
def test_a_false_certificate_is_invalid(falsify: Callable[[], Commit]) -> None:
    with pytest.raises(MessageInvalid):
        check_commit(falsify())


def test_a_vote_of_another_group_does_not_count() -> None:
    elsewhere = manifest.signed_vote(OTHER_GROUP, SPANS, IDENTITIES[0].sign)
    with pytest.raises(MessageInvalid):
        manifest.check_vote_untrusted(elsewhere, GROUP, MEMBERS[0], 2)


def test_signatures_of_one_kind_are_none_of_another() -> None:
    promise = manifest.signed_promise(GROUP, 0, IDENTITIES[0].sign)
    with pytest.raises(MessageInvalid):
        manifest.check_vote_untrusted(Vote(SPANS, promise.signature), GROUP, MEMBERS[0], 2)
    with pytest.raises(MessageInvalid):
        manifest.check_hello_untrusted(Hello(GROUP, 0.0, promise.signature), MEMBERS[0])
