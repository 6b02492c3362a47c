"""Members and aggregators that lie: who is named, who goes on, and that nothing private is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from averaging.secure import schema, signing
from averaging.secure.ring import SumInvalid
from averaging.secure.shares import Pair
from averaging.secure.stages import Phase
from p2p import MessageInvalid, short
from tests.averaging.secure.world import IDENTITIES, Sent, World, flipped

LIAR = 3


def with_change(kind: type[Any], change: Callable[[Any], Any], liar: int = LIAR) -> World:
    """A world of six in which one member changes what it says of one kind."""
    world = World(11, count=6, aggregators=3)

    def tamper(sent: Sent) -> list[Sent]:
        if sent.sender == liar and isinstance(sent.message, kind):
            return [replace(sent, message=change(sent.message))]
        return [sent]

    world.tamper = tamper
    world.run()
    return world


def check_others_succeed(world: World, reason: str, liar: int = LIAR) -> None:
    """The liar is named and left out; the others have their sum."""
    assert re.search(reason, world.coordinator.lost[liar]), world.coordinator.lost
    assert set(world.coordinator.lost) == {liar}
    assert set(world.done) == set(range(6)) - {liar}
    for sums in world.done.values():
        np.testing.assert_array_equal(sums, world.survivors_sum())
    assert all(len(kinds) == 1 for kinds in world.revealed().values())
    assert world.failed[liar].startswith("left out by the coordinator")


def check_failed(world: World, *names: int) -> str:
    """Everybody's attempt failed, and the reason names these members."""
    assert world.coordinator.phase is Phase.FAILED
    assert world.done == {}
    reasons = set(world.failed.values())
    assert len(reasons) == 1, reasons
    reason = reasons.pop()
    for name in names:
        assert short(world.peers[name]) in reason
    assert world.sent(schema.Secrets) == []
    return reason


# --- members ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: msgspec.structs.replace(keys, signature=flipped(keys.signature)),
        lambda keys: msgspec.structs.replace(keys, mask_key=flipped(keys.mask_key)),
        lambda keys: signing.signed_keys(b"g" * 32, keys, IDENTITIES[LIAR].sign),
    ],
    ids=["forged", "altered", "of another group"],
)
def test_keys_that_their_member_did_not_sign(change: Callable[[Any], Any]) -> None:
    world = with_change(schema.Keys, change)
    check_others_succeed(world, f"keys that {short(world.peers[LIAR])} did not sign for this group")


def test_keys_of_somebody_else() -> None:
    world = with_change(schema.Keys, lambda keys: msgspec.structs.replace(keys, member=2))
    check_others_succeed(world, "keys of somebody else")


def test_a_public_key_with_which_nothing_is_secret() -> None:
    world = World(11, count=6, aggregators=3)

    def tamper(sent: Sent) -> list[Sent]:
        if sent.sender == LIAR and isinstance(sent.message, schema.Keys):
            keys = msgspec.structs.replace(sent.message, mask_key=bytes(32))
            keys = signing.signed_keys(world.group_id, keys, IDENTITIES[LIAR].sign)
            return [replace(sent, message=keys)]
        return [sent]

    world.tamper = tamper
    world.run()
    check_others_succeed(world, "agrees on nothing secret")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: msgspec.structs.replace(s, signature=flipped(s.signature)), "did not sign"),
        (lambda s: msgspec.structs.replace(s, hashes=flipped(s.hashes)), "did not sign"),
        (lambda s: msgspec.structs.replace(s, hashes=s.hashes[:-32]), "wrong number of members"),
        (lambda s: msgspec.structs.replace(s, boxes=s.boxes[1:]), "wrong number of members"),
        (lambda s: msgspec.structs.replace(s, member=1), "somebody else"),
    ],
    ids=["forged", "altered", "too few hashes", "too few boxes", "somebody else's"],
)
def test_shares_that_their_dealer_did_not_sign(change: Callable[[Any], Any], reason: str) -> None:
    check_others_succeed(with_change(schema.Shares, change), reason)


def test_a_share_that_is_not_the_signed_one_is_complained_about() -> None:
    def spoil(shares: schema.Shares) -> schema.Shares:
        boxes = list(shares.boxes)
        boxes[5] = flipped(boxes[5])
        return msgspec.structs.replace(shares, boxes=tuple(boxes))

    world = World(11, count=6, aggregators=3)
    # Whoever is quick may have sent parts already; here the complaint is first.
    world.tamper = lambda sent: (
        [replace(sent, message=spoil(sent.message))]
        if sent.sender == LIAR and isinstance(sent.message, schema.Shares)
        else []
        if isinstance(sent.message, schema.Part)
        else [sent]
    )
    world.run()
    reason = check_failed(world, LIAR, 5)
    assert "shares" in reason
    assert world.sent(schema.Reveal) == []


def test_a_late_complaint_costs_only_its_author() -> None:
    world = World(11, count=6, aggregators=3)
    world.tamper = lambda sent: (
        [replace(sent, message=schema.Complaint(1))]
        if sent.sender == LIAR and isinstance(sent.message, schema.Held)
        else [sent]
    )
    world.run()
    check_others_succeed(world, "a complaint about shares after")


@pytest.mark.parametrize("kind", ["seed", "key"])
def test_shares_of_another_secret_than_the_committed_one_name_the_dealer(kind: str) -> None:
    world = World(11, count=6, aggregators=3)
    liar = world.members[LIAR]
    begin = liar.begin

    def begin_and_change() -> schema.Keys:
        keys = begin()
        secrets = liar._secrets
        other = b"\5" * 32
        liar._secrets = Pair(other, secrets.key) if kind == "seed" else Pair(secrets.seed, other)
        return keys

    liar.begin = begin_and_change  # type: ignore[method-assign]
    if kind == "key":
        # Only of one that is lost the key is needed.
        world.drops[LIAR] = ("part", 0)
    world.run()
    reason = check_failed(world, LIAR)
    assert "committed to" in reason


def liar_first(world: World, kind: type[Any], change: Callable[[Any], Any]) -> None:
    """Run it so that what the liar says of one kind comes before what the others say of it."""
    held: list[Sent] = []

    def tamper(sent: Sent) -> list[Sent]:
        if not isinstance(sent.message, kind):
            return [sent]
        if sent.sender == LIAR:
            return [replace(sent, message=change(sent.message))]
        held.append(sent)
        return []

    world.tamper = tamper
    world.time_passes = False
    world.run()
    world.transcript += held
    for sent in held:
        world.on_said(sent.sender, sent.message)
    world.tamper = lambda sent: [sent]
    world.run_on()


@pytest.mark.parametrize("name", ["seeds", "keys"])
def test_a_revealed_share_that_was_not_dealt(name: str) -> None:
    world = World(11, count=7, aggregators=3)
    world.drops[6] = ("part", 0)

    def change(reveal: schema.Reveal) -> schema.Reveal:
        shares = getattr(reveal, name)
        return msgspec.structs.replace(reveal, **{name: (flipped(shares[0]), *shares[1:])})

    liar_first(world, schema.Reveal, change)
    assert world.coordinator.lost[LIAR] == "a revealed share is not the one that was dealt"
    # Of seven, five are needed, which are there.
    assert set(world.done) == {0, 1, 2, 4, 5}
    np.testing.assert_array_equal(world.done[0], world.survivors_sum())


def test_a_wrong_number_of_revealed_shares() -> None:
    world = World(11, count=6, aggregators=3)
    liar_first(world, schema.Reveal, lambda one: msgspec.structs.replace(one, seeds=one.seeds[1:]))
    check_others_succeed(world, "wrong number of revealed shares")


def test_one_that_signs_two_sets_of_survivors() -> None:
    world = World(11, count=6, aggregators=3)

    def tamper(sent: Sent) -> list[Sent]:
        if sent.sender == LIAR and isinstance(sent.message, schema.Agreement):
            fewer = msgspec.structs.replace(sent.message, survivors=(0, 1, 2, 3, 4))
            other = signing.signed_agreement(world.group_id, fewer, IDENTITIES[LIAR].sign)
            return [sent, replace(sent, message=other)]
        # The others sign later.
        return [] if isinstance(sent.message, schema.Agreement) else [sent]

    world.tamper = tamper
    world.run()
    assert "signed two sets of survivors" in world.coordinator.lost[LIAR]
    assert world.sent(schema.Reveal) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: msgspec.structs.replace(a, signature=flipped(a.signature)), "did not sign"),
        (lambda a: msgspec.structs.replace(a, member=1), "somebody else"),
    ],
)
def test_a_forged_agreement(change: Callable[[Any], Any], reason: str) -> None:
    world = World(11, count=6, aggregators=3)
    liar_first(world, schema.Agreement, change)
    check_others_succeed(world, reason)


def test_values_out_of_range_show_in_the_sum() -> None:
    world = World(11, count=6, aggregators=3)
    # As large as the ring allows, which no honest member's are.
    world.masked[LIAR] += np.uint32(2**31 - 1)
    world.run()
    mean = np.empty(world.vectors.shape[1])
    with pytest.raises(SumInvalid, match="some member"):
        world.ring.decode(world.done[0], mean)


# --- aggregators ------------------------------------------------------------------------------


def test_an_aggregator_that_tells_members_different_sums() -> None:
    world = World(11, count=6, aggregators=3)
    ours = 1

    def tamper(sent: Sent) -> list[Sent]:
        if sent.sender == ours and isinstance(sent.message, schema.SumEnd) and sent.receiver == 4:
            end = msgspec.structs.replace(sent.message, digest=other_digest(sent))
            end = signing.signed_end(world.group_id, end, IDENTITIES[ours].sign)
            assert sent.payload is not None
            return [replace(sent, message=end, payload=sent.payload + np.uint32(1))]
        return [sent]

    world.tamper = tamper
    world.run()
    assert "told members different sums" in check_failed(world, ours)
    assert world.sent(schema.Reveal) == []


def other_digest(sent: Sent) -> bytes:
    assert sent.payload is not None
    return blake3((sent.payload + np.uint32(1)).tobytes()).digest()


def test_a_sum_that_is_not_what_was_signed() -> None:
    world = World(11, count=6, aggregators=3)
    world.tamper = lambda sent: (
        [replace(sent, payload=sent.payload + np.uint32(1))]
        if isinstance(sent.message, schema.SumEnd)
        and sent.payload is not None
        and (sent.sender, sent.receiver) == (1, 4)
        else [sent]
    )
    world.run()
    # Only one does not hold it; the others are enough.
    assert "does not fit its bytes" in world.failed[4] or "too late" in world.failed[4]
    assert set(world.done) == {0, 1, 2, 3, 5}


def test_a_part_that_was_never_sent_is_no_reason_to_open_anything() -> None:
    world = World(11, count=6, aggregators=3)
    with pytest.raises(MessageInvalid, match="of no span, or of one who dealt no shares"):
        world.coordinator.on_message_untrusted(1, schema.Complete(60, 2), 0.0)
