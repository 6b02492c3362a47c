"""Coordinators that lie: members refuse, and reveal nothing for a second set of survivors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from averaging.secure import schema, signing
from averaging.secure.member import Member
from averaging.secure.shares import Pair, Vault
from averaging.secure.stages import Stage
from p2p import MessageInvalid, short
from tests.averaging.secure.world import IDENTITIES, Sent, World, flipped


def at_survivors(count: int = 6) -> tuple[World, list[tuple[int, Any]]]:
    """A world that has stopped before anybody is told the survivors; and what would be told."""
    world = World(11, count=count, aggregators=2)
    held: list[tuple[int, Any]] = []

    def tamper(sent: Sent) -> list[Sent]:
        if isinstance(sent.message, schema.Survivors):
            held.append((sent.receiver, sent.message))
            return []
        return [sent]

    world.tamper = tamper
    world.run()
    assert len(held) == count
    return world, held


def signed_by(world: World, number: int, survivors: tuple[int, ...]) -> schema.Agreement:
    """Take a member to its signature under these survivors."""
    member = world.members[number]
    member.on_survivors_untrusted(schema.Survivors(0, survivors))
    for span, owner in enumerate(world.owners):
        total = world.parts[owner].masked_sum(span, survivors)
        digest = span_digest(total)
        end = schema.SumEnd(0, span, owner, signing.survivors_digest(survivors), digest, bytes(64))
        member.on_sum_untrusted(
            signing.signed_end(world.group_id, end, IDENTITIES[owner].sign), digest
        )
    return member.on_sign_untrusted(schema.SignNow(0))


def span_digest(total: Any) -> bytes:
    return blake3(total.tobytes()).digest()


def certificate_of(agreements: list[schema.Agreement]) -> schema.Certificate:
    first = agreements[0]
    return schema.Certificate(
        first.plan,
        first.survivors,
        first.digest,
        tuple(one.member for one in agreements),
        tuple(one.signature for one in agreements),
    )


def test_two_sets_of_survivors_never_both_find_enough_signatures() -> None:
    world, _ = at_survivors()
    whole, fewer = (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4)
    # The coordinator and one more collude, and sign both.
    one = [signed_by(world, number, whole) for number in (2, 3)]
    other = [signed_by(world, number, fewer) for number in (4,)]
    for liar in (0, 1):
        for agreements in (one, other):
            forged = msgspec.structs.replace(agreements[0], member=liar)
            agreements.append(
                signing.signed_agreement(world.group_id, forged, IDENTITIES[liar].sign)
            )
    for agreements, honest in ((one, 2), (other, 4)):
        agreements.sort(key=lambda agreement: agreement.member)
        with pytest.raises(MessageInvalid, match="signatures, of 5 needed"):
            world.members[honest].on_certificate_untrusted(certificate_of(agreements))
        assert world.members[honest].stage is Stage.SIGNED


def test_a_second_set_of_survivors_is_refused_once_one_is_signed() -> None:
    world, _ = at_survivors()
    signed_by(world, 2, (0, 1, 2, 3, 4, 5))
    with pytest.raises(MessageInvalid, match="second set of survivors, after we signed"):
        world.members[2].on_survivors_untrusted(schema.Survivors(0, (0, 1, 2, 3, 4)))
    with pytest.raises(MessageInvalid, match="out of turn"):
        world.members[2].on_plan_untrusted(schema.Plan(1, (0, 0)))
    # To ask again for the same is no lie, and gives the same.
    again = world.members[2].on_sign_untrusted(schema.SignNow(0))
    assert again.survivors == (0, 1, 2, 3, 4, 5)


def test_a_certificate_opens_the_vault_once_and_for_its_survivors_only() -> None:
    world, _ = at_survivors()
    survivors = (0, 1, 2, 3, 4)
    agreements = [signed_by(world, number, survivors) for number in survivors]
    certificate = certificate_of(agreements)
    reveal = world.members[2].on_certificate_untrusted(certificate)
    assert reveal is not None
    assert (len(reveal.seeds), len(reveal.keys)) == (5, 1)
    assert world.members[2].on_certificate_untrusted(certificate) is None
    for changed in (
        msgspec.structs.replace(certificate, survivors=(0, 1, 2, 3, 5)),
        msgspec.structs.replace(certificate, digest=bytes(32)),
    ):
        with pytest.raises(MessageInvalid, match="second certificate"):
            world.members[2].on_certificate_untrusted(changed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: msgspec.structs.replace(c, digest=bytes(32)), "did not sign"),
        (lambda c: msgspec.structs.replace(c, signers=(0, 0, 1, 2, 3)), "twice"),
        (lambda c: msgspec.structs.replace(c, signers=(0, 1, 2, 3, 5)), "no survivor"),
        (lambda c: msgspec.structs.replace(c, signers=c.signers[1:]), "wrong number"),
        (
            lambda c: msgspec.structs.replace(
                c, signers=c.signers[1:], signatures=c.signatures[1:]
            ),
            "4 signatures, of 5 needed",
        ),
    ],
)
def test_a_bad_certificate_reveals_nothing(change: Callable[[Any], Any], reason: str) -> None:
    world, _ = at_survivors()
    survivors = (0, 1, 2, 3, 4)
    agreements = [signed_by(world, number, survivors) for number in survivors]
    with pytest.raises(MessageInvalid, match=reason):
        world.members[1].on_certificate_untrusted(change(certificate_of(agreements)))
    assert world.members[1].stage is Stage.SIGNED


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ((0, 1, 2, 3), "4 members are left, and 5 are needed"),
        ((0, 1, 2, 3, 3), "not in order"),
        ((1, 0, 2, 3, 4), "not in order"),
        ((0, 1, 2, 3, 17), "a member that is none"),
    ],
)
def test_impossible_survivors(members: tuple[int, ...], reason: str) -> None:
    world, _ = at_survivors()
    with pytest.raises(MessageInvalid, match=reason):
        world.members[2].on_survivors_untrusted(schema.Survivors(0, members))


def test_wrong_secrets_name_whose_they_are_not() -> None:
    world = World(11, count=6, aggregators=3)
    world.tamper = lambda sent: (
        [
            replace(
                sent,
                message=schema.Secrets(
                    (flipped(sent.message.seeds[0]), *sent.message.seeds[1:]), ()
                ),
            )
        ]
        if isinstance(sent.message, schema.Secrets) and sent.receiver == 4
        else [sent]
    )
    world.run()
    assert world.failed == {4: f"not the secret of {short(world.peers[0])}"}
    assert 4 not in world.done


def test_members_left_out_of_the_keys_notice() -> None:
    world = World(11, count=6, aggregators=3)
    member = world.members[2]
    others = tuple(one.begin() for one in world.members)
    with pytest.raises(MessageInvalid, match="our own keys"):
        member.on_all_keys_untrusted(schema.AllKeys(tuple(k for k in others if k.member != 2)))
    with pytest.raises(MessageInvalid, match="4 members are left"):
        member.on_all_keys_untrusted(schema.AllKeys(others[:4]))
    with pytest.raises(MessageInvalid, match="out of turn"):
        member.on_all_shares_untrusted(schema.AllShares(()))
    with pytest.raises(MessageInvalid, match="out of turn"):
        member.on_secrets_untrusted(schema.Secrets((), ()))
    assert member.stage is Stage.KEYS
    assert not member.spent


def test_plans_that_do_not_fit() -> None:
    world, _ = at_survivors()
    member: Member = world.members[2]
    for plan, reason in (
        (schema.Plan(1, (0,)), "does not fit"),
        (schema.Plan(1, (0, 5)), "does not fit"),
        (schema.Plan(0, (0, 0)), "older"),
    ):
        with pytest.raises(MessageInvalid, match=reason):
            member.on_plan_untrusted(plan)
    assert member.on_plan_untrusted(schema.Plan(1, (0, 0))) == [1]


def test_a_vault_opens_once() -> None:
    vault = Vault()
    vault.put(0, Pair(b"seed", b"key"))
    vault.put(1, Pair(b"seed", b"key"))
    assert vault.open([0]) == {0: b"seed", 1: b"key"}
    for again in (lambda: vault.open([1]), lambda: vault.put(2, Pair(b"", b""))):
        with pytest.raises(AssertionError, match="has been opened"):
            again()


def test_who_promised_never_to_sign_does_not_and_who_signed_cannot_promise() -> None:
    world, _ = at_survivors()
    survivors = (0, 1, 2, 3, 4)
    agreements = [signed_by(world, number, survivors) for number in survivors]
    assert not world.members[2].abandon()
    assert world.members[2].stage is Stage.SIGNED
    promising = world.members[5]
    assert promising.abandon()
    with pytest.raises(MessageInvalid, match="too late"):
        promising.on_sign_untrusted(schema.SignNow(0))
    with pytest.raises(MessageInvalid, match="out of turn"):
        promising.on_survivors_untrusted(schema.Survivors(0, survivors))
    assert promising.on_certificate_untrusted(certificate_of(agreements)) is None
    assert promising.stage is Stage.ABANDONED
