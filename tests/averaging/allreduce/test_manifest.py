"""What is signed in a round: it binds what it should, and nothing false passes."""

import random
from collections.abc import Callable

import msgspec
import pytest

from averaging.allreduce import manifest
from averaging.allreduce.partition import partition
from averaging.allreduce.schema import MEMBERS_MAX, Commit, PieceEnd, Plan, Promise, Vote, Weight
from averaging.matchmaking.group import quorum_reached
from p2p import Identity, MessageInvalid

RNG = random.Random(1)
IDENTITIES = [Identity.generate(RNG) for _ in range(3)]
MEMBERS = [identity.peer_id for identity in IDENTITIES]
GROUP = b"g" * 32
OTHER_GROUP = b"h" * 32
# The members with numbers 0 and 1 average; the second owns the last piece, of two chunks.
AGGREGATORS = MEMBERS[:2]
PIECE = partition(12_000, [4096, 7904], 1000)[-1]
DIGESTS = (b"a" * 32, b"b" * 32)


def piece_end(signer: int = 1, **changes: object) -> PieceEnd:
    """Of the second aggregator's last piece, always signed."""
    end = PieceEnd(
        group_id=GROUP,
        piece=PIECE.number,
        owner=1,
        plan=0,
        chunks=(b"x" * 32, b"y" * 32),
        included=(2, 1, 0),
        weights=(1.0, 2.5, 0.0),
        reasons=("", "silent", ""),
        signature=bytes(64),
        norms=(4.0, 3.0, 0.0),
    )
    end = msgspec.structs.replace(end, **changes)
    return manifest.signed_piece_end(end, IDENTITIES[signer].sign)


def check_end(end: PieceEnd) -> None:
    manifest.check_piece_end_untrusted(end, GROUP, AGGREGATORS, PIECE, 3)


def test_a_true_piece_end_passes() -> None:
    assert len(PIECE.chunks) == 2
    check_end(piece_end())


@pytest.mark.parametrize(
    "change",
    [
        {"group_id": OTHER_GROUP},
        {"piece": PIECE.number - 1},
        {"owner": 0},
        {"owner": 2},
        {"plan": MEMBERS_MAX},
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
        {"norms": (4.0, 3.5, 0.0)},
        {"norms": ()},
        {"signature": bytes(64)},
    ],
)
def test_a_changed_piece_end_is_invalid(change: dict[str, object]) -> None:
    with pytest.raises(MessageInvalid):
        check_end(msgspec.structs.replace(piece_end(), **change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weights": (1.0, float("inf"), 0.0)}, "weight"),
        ({"weights": (1.0, float("nan"), 0.0)}, "weight"),
        ({"norms": (4.0, float("nan"), 0.0)}, "norm"),
        ({"norms": (-4.0, 3.0, 0.0)}, "norm"),
        ({"norms": (4.0,)}, "number of members"),
        ({"included": (2, 3, 0)}, "do not exist"),
        ({"included": (2, 1)}, "number of members"),
        ({"reasons": ("",) * 4}, "number of members"),
        ({"chunks": (b"x" * 32,)}, "number of chunks"),
        ({"piece": PIECE.number - 1}, "another piece"),
        ({"group_id": OTHER_GROUP}, "another piece"),
        ({"owner": 2}, "another piece"),
    ],
)
def test_a_false_table_is_invalid_even_when_signed(
    change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        check_end(piece_end(**change))


def test_a_piece_end_of_another_signer_is_invalid() -> None:
    with pytest.raises(MessageInvalid, match="signature"):
        check_end(piece_end(signer=0))


def test_another_aggregator_may_own_the_piece_by_a_plan_only() -> None:
    with pytest.raises(MessageInvalid, match="owner"):
        check_end(piece_end(signer=0, owner=0))
    check_end(piece_end(signer=0, owner=0, plan=MEMBERS_MAX))


def test_the_digest_covers_everything_but_the_signature() -> None:
    end = piece_end()
    digest = manifest.piece_digest(end)
    assert manifest.piece_digest(msgspec.structs.replace(end, signature=b"s" * 64)) == digest
    for change in (
        {"group_id": OTHER_GROUP},
        {"piece": 0},
        {"owner": 0},
        {"plan": MEMBERS_MAX},
        {"chunks": (b"y" * 32, b"x" * 32)},
        {"included": (1, 2, 0)},
        {"weights": (1.0, 2.0, 0.0)},
        {"reasons": ("", "", "")},
        {"norms": (4.0, 3.5, 0.0)},
    ):
        assert manifest.piece_digest(msgspec.structs.replace(end, **change)) != digest


@pytest.mark.parametrize(
    ("change", "contradicts"),
    [
        ({}, False),
        ({"chunks": (b"x" * 32, b"z" * 32)}, True),
        ({"included": (2, 2, 0)}, True),
        ({"weights": (1.0, 2.0, 0.0)}, True),
        ({"reasons": ("", "left", "")}, True),
        # Each of these is another thing to sign for.
        ({"plan": MEMBERS_MAX, "chunks": (b"x" * 32, b"z" * 32)}, False),
        ({"piece": 0, "chunks": (b"x" * 32, b"z" * 32)}, False),
        ({"owner": 0, "chunks": (b"x" * 32, b"z" * 32)}, False),
        ({"group_id": OTHER_GROUP, "chunks": (b"x" * 32, b"z" * 32)}, False),
    ],
)
def test_two_ends_of_one_piece_contradict_each_other(
    change: dict[str, object], contradicts: bool
) -> None:
    one, other = piece_end(), piece_end(**change)
    assert manifest.contradict(one, other) == contradicts
    assert manifest.contradict(other, one) == contradicts


def test_one_end_signed_twice_contradicts_nothing() -> None:
    end = piece_end()
    assert not manifest.contradict(end, msgspec.structs.replace(end, signature=b"s" * 64))


def test_a_weight_binds_norm_group_and_member() -> None:
    weight = manifest.signed_weight(GROUP, 2, 7, IDENTITIES[0].sign)
    assert (weight.weight, weight.norm) == (2.0, 7.0)
    manifest.check_weight_untrusted(weight, GROUP, MEMBERS[0])
    for false in (
        Weight(3.0, 7.0, weight.signature),
        Weight(2.0, 8.0, weight.signature),
        # The signature says which is which.
        Weight(7.0, 2.0, weight.signature),
    ):
        with pytest.raises(MessageInvalid):
            manifest.check_weight_untrusted(false, GROUP, MEMBERS[0])
    for group, member in ((OTHER_GROUP, MEMBERS[0]), (GROUP, MEMBERS[1])):
        with pytest.raises(MessageInvalid):
            manifest.check_weight_untrusted(weight, group, member)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_any_weight_can_be_signed_and_is_judged_later(weight: float) -> None:
    signed = manifest.signed_weight(GROUP, weight, weight, IDENTITIES[0].sign)
    manifest.check_weight_untrusted(signed, GROUP, MEMBERS[0])


PLAN = MEMBERS_MAX + 2


def plan(number: int = PLAN, owners: tuple[int, ...] = (1, 0, 1), signer: int = 2) -> Plan:
    return manifest.signed_plan(GROUP, number, owners, IDENTITIES[signer].sign)


def check_plan(plan: Plan) -> None:
    manifest.check_plan_untrusted(plan, GROUP, MEMBERS, len(AGGREGATORS), 3)


def test_a_plan_of_the_member_that_it_names_passes() -> None:
    check_plan(plan())
    check_plan(plan(number=2 * MEMBERS_MAX, signer=0))


@pytest.mark.parametrize(
    ("falsify", "complaint"),
    [
        (lambda: plan(signer=1), "signature"),
        (lambda: plan(number=MEMBERS_MAX + 1), "signature"),
        (lambda: plan(number=MEMBERS_MAX + 3), "no planner"),
        # The first of all plans is the group itself, which nobody signs.
        (lambda: plan(number=2), "no planner"),
        (lambda: plan(number=0, signer=0), "no planner"),
        (lambda: plan(owners=(1, 0)), "fit"),
        (lambda: plan(owners=(1, 0, 1, 0)), "fit"),
        (lambda: plan(owners=(1, 0, 2)), "fit"),
        (lambda: msgspec.structs.replace(plan(), owners=(0, 0, 0)), "signature"),
        (lambda: msgspec.structs.replace(plan(), number=PLAN + MEMBERS_MAX), "signature"),
        (
            lambda: manifest.signed_plan(OTHER_GROUP, PLAN, (1, 0, 1), IDENTITIES[2].sign),
            "signature",
        ),
    ],
)
def test_a_false_plan_is_invalid(falsify: Callable[[], Plan], complaint: str) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        check_plan(falsify())


def votes() -> list[Vote]:
    return [manifest.signed_vote(GROUP, DIGESTS, identity.sign) for identity in IDENTITIES]


def check_commit(commit: Commit) -> None:
    manifest.check_commit_untrusted(commit, GROUP, MEMBERS, 2, quorum_reached)


def commit_of(*numbers: int) -> Commit:
    return Commit(DIGESTS, numbers, tuple(votes()[number].signature for number in numbers))


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
        lambda: msgspec.structs.replace(commit_of(0, 1), pieces=DIGESTS[::-1]),
        lambda: msgspec.structs.replace(commit_of(0, 1), pieces=DIGESTS[:1]),
    ],
)
def test_a_false_certificate_is_invalid(falsify: Callable[[], Commit]) -> None:
    with pytest.raises(MessageInvalid):
        check_commit(falsify())


def test_a_vote_of_another_group_does_not_count() -> None:
    elsewhere = manifest.signed_vote(OTHER_GROUP, DIGESTS, IDENTITIES[0].sign)
    with pytest.raises(MessageInvalid):
        manifest.check_vote_untrusted(elsewhere, GROUP, MEMBERS[0], 2)


def test_a_promise_is_of_one_member_in_one_group() -> None:
    promise = manifest.signed_promise(GROUP, 1, IDENTITIES[1].sign)
    manifest.check_promise_untrusted(promise, GROUP, MEMBERS)
    for false, group in (
        (promise, OTHER_GROUP),
        (Promise(0, promise.signature), GROUP),
        (Promise(3, promise.signature), GROUP),
    ):
        with pytest.raises(MessageInvalid):
            manifest.check_promise_untrusted(false, group, MEMBERS)


def test_signatures_of_one_kind_are_none_of_another() -> None:
    promise = manifest.signed_promise(GROUP, 0, IDENTITIES[0].sign)
    with pytest.raises(MessageInvalid):
        manifest.check_vote_untrusted(Vote(DIGESTS, promise.signature), GROUP, MEMBERS[0], 2)
    with pytest.raises(MessageInvalid):
        manifest.check_weight_untrusted(Weight(0.0, 0.0, promise.signature), GROUP, MEMBERS[0])
    with pytest.raises(MessageInvalid):
        check_plan(Plan(MEMBERS_MAX, (0, 0, 0), promise.signature))
    with pytest.raises(MessageInvalid):
        check_end(msgspec.structs.replace(piece_end(), signature=promise.signature))
