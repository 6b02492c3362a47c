"""Targets of secure aggregation: what a member, a coordinator and an aggregator hear."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from averaging.secure import schema, signing
from averaging.secure.coordinator import Coordinator
from averaging.secure.member import Member
from averaging.secure.parts import Parts, Span
from averaging.secure.sealing import agree_untrusted, key_of, open_untrusted, seal
from averaging.secure.stages import Phase
from p2p import MessageInvalid, decode_untrusted, encode
from tests.averaging.secure.world import IDENTITIES, Sent, World
from tests.fuzz.target import Choices, Target

COUNT = 3
SIZE_BYTES_MAX = 65_536


def small_world() -> World:
    return World(1, count=COUNT, aggregators=2, elements=5)


# One whole run, all of whose messages are known.
WORLD = small_world()
WORLD.run()
assert len(WORLD.done) == COUNT
GROUP_ID, PEERS = WORLD.group_id, WORLD.peers


def said(kind: type[Any], *, to: int | None = None) -> list[Any]:
    """Each message of a kind."""
    return [sent.message for sent in WORLD.sent(kind) if to in (None, sent.receiver)]


# --- a coordinator in each of its phases ------------------------------------------------------


def coordinator_before(kind: type[Any]) -> tuple[Coordinator, list[Sent]]:
    """The coordinator when the first such message would come to it; and all that would come."""
    world, held = small_world(), []

    def tamper(sent: Sent) -> list[Sent]:
        if isinstance(sent.message, kind):
            held.append(sent)
            return []
        return [sent]

    world.tamper = tamper
    world.run()
    return world.coordinator, held


HEARD = (
    schema.Keys,
    schema.Shares,
    schema.Complete,
    schema.Held,
    schema.Agreement,
    schema.Reveal,
)
COORDINATORS = [coordinator_before(kind) for kind in HEARD]


def run_coordinator(data: bytes) -> None:
    """The phase, then senders and what they say, each behind its length of two bytes."""
    choices = Choices(data)
    coordinator = copy.deepcopy(choices.pick(COORDINATORS)[0])
    before = coordinator.phase
    while choices.left:
        sender = choices.number(COUNT)
        told = choices.bytes(choices.number(65_536))
        try:
            message = decode_untrusted(
                told,
                schema.ToCoordinator,  # type: ignore[arg-type]  # decodes like one type
                size_bytes_max=SIZE_BYTES_MAX,
            )
            coordinator.on_message_untrusted(sender, message, 0.0)
        except MessageInvalid as exc:
            coordinator.on_lost(sender, str(exc), 0.0)
    order = list(Phase)
    # Nobody's secrets come out but through shares that their dealers committed to.
    if coordinator.phase is Phase.DONE:
        assert before is Phase.REVEALS
    assert order.index(coordinator.phase) >= order.index(before)


def coordinator_seed(number: int) -> bytes:
    """All that comes to the coordinator in a phase."""
    seed = bytes([number])
    for sent in COORDINATORS[number][1]:
        body = encode(sent.message)
        seed += bytes([sent.sender]) + len(body).to_bytes(2, "big") + body
    return seed


# --- a member at each of its stages -----------------------------------------------------------

ME = 2
SURVIVORS = said(schema.Survivors, to=ME)[0]
ENDS = said(schema.SumEnd, to=ME)
CERTIFICATE = said(schema.Certificate, to=ME)[0]
SECRETS = said(schema.Secrets, to=ME)[0]


def take_sum(member: Member, end: schema.SumEnd) -> Any:
    return member.on_sum_untrusted(end, end.digest)


STEPS: tuple[tuple[Callable[[Member, Any], Any], Any], ...] = (
    (Member.on_all_keys_untrusted, said(schema.AllKeys, to=ME)[0]),
    (Member.on_all_shares_untrusted, said(schema.AllShares, to=ME)[0]),
    (Member.on_survivors_untrusted, SURVIVORS),
    *((take_sum, end) for end in ENDS),
    (Member.on_sign_untrusted, schema.SignNow(0)),
    (Member.on_certificate_untrusted, CERTIFICATE),
    (Member.on_secrets_untrusted, SECRETS),
    (Member.on_plan_untrusted, schema.Plan(1, (0, 0))),
)


def member_after(steps: int) -> Member:
    """The member as it was in the run, after so many steps."""
    drawn = iter(WORLD.drawn[ME])
    member = Member(
        me=ME,
        peers=PEERS,
        group_id=GROUP_ID,
        owners=WORLD.owners,
        sign=IDENTITIES[ME].sign,
        draw=lambda size_bytes: next(drawn),
    )
    member.begin()
    for step, message in STEPS[:steps]:
        step(member, message)
    return member


def run_member(data: bytes) -> None:
    """How far the member is, the kind of message, and its bytes."""
    choices = Choices(data)
    steps, kind = choices.number(len(STEPS)), choices.number(len(STEPS))
    # A plan is no part of the run.
    member = member_after(min(steps, len(STEPS) - 1))
    hear, example = STEPS[kind]
    try:
        message = decode_untrusted(choices.rest(), type(example), size_bytes_max=SIZE_BYTES_MAX)
        answer = hear(member, message)
    except MessageInvalid:
        return
    if isinstance(answer, schema.Reveal):
        # Nobody has signed for anything else.
        told = (message.plan, message.survivors, message.digest)
        assert told == (0, CERTIFICATE.survivors, CERTIFICATE.digest)
    if isinstance(message, schema.Secrets):
        assert message == SECRETS


# --- what is signed ---------------------------------------------------------------------------

KEYS = said(schema.Keys)
AGREEMENTS = said(schema.Agreement)
SIGNED = (KEYS[0], ENDS[0], AGREEMENTS[0], CERTIFICATE)


def run_signed(data: bytes) -> None:
    kind = type(SIGNED[data[0] % len(SIGNED) if data else 0])
    try:
        message: Any = decode_untrusted(data[1:], kind, size_bytes_max=SIZE_BYTES_MAX)
        # Nobody has signed anything else, so whatever passes is one of ours.
        match message:
            case schema.Keys():
                signing.check_keys_untrusted(GROUP_ID, PEERS, message)
                assert message in KEYS
            case schema.SumEnd():
                signing.check_end_untrusted(GROUP_ID, PEERS, message)
                assert message in ENDS
            case schema.Agreement():
                signing.check_agreement_untrusted(GROUP_ID, PEERS, message)
                assert message in AGREEMENTS
            case schema.Certificate():
                signing.check_certificate_untrusted(GROUP_ID, PEERS, message)
                assert set(message.signers) == set(range(COUNT))
    except MessageInvalid:
        return


# --- bytes ------------------------------------------------------------------------------------

AGREED = b"a" * 32
BOX = seal(AGREED, GROUP_ID, 1, 2, b"p" * 66)


def run_box(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        assert len(agree_untrusted(key_of(AGREED), data[:32])) == 32
    try:
        assert open_untrusted(AGREED, GROUP_ID, 1, 2, data) == b"p" * 66
        assert data == BOX
    except MessageInvalid:
        return


def run_parts(data: bytes) -> None:
    """Runs of spans: whose, which span, from where on, and how many bytes."""
    choices = Choices(data)
    spans = (Span(0, 3), Span(3, 9), Span(9, 10), Span(10, 300))
    parts = Parts(spans, np.dtype(np.uint32))
    while choices.left:
        sender, span = choices.number(3), choices.number(6)
        start, size_bytes = choices.number(300), choices.number(1200)
        try:
            arriving = parts.of_untrusted(span, sender, ours=span < 2)
            buffer = arriving.buffer_untrusted(start, size_bytes)
        except MessageInvalid:
            continue
        assert len(buffer) == size_bytes
        arriving.on_come(size_bytes)
    for span in range(len(spans)):
        whole = parts.whole(span)
        if whole:
            assert len(parts.masked_sum(span, whole)) == spans[span].stop - spans[span].start


_SECURE = "averaging.secure"
TARGETS = (
    Target(
        name="secure.coordinator",
        run=run_coordinator,
        seeds=[coordinator_seed(number) for number in range(len(HEARD))],
        covers=(
            f"{_SECURE}.coordinator.on_message_untrusted",
            f"{_SECURE}.coordinator._on_complete_untrusted",
            f"{_SECURE}.coordinator._on_held_untrusted",
            f"{_SECURE}.coordinator._on_agreement_untrusted",
            f"{_SECURE}.coordinator._on_reveal_untrusted",
            f"{_SECURE}.coordinator._tell_secrets_untrusted",
            f"{_SECURE}.dealers.on_keys_untrusted",
            f"{_SECURE}.dealers.on_shares_untrusted",
            f"{_SECURE}.shares.check_reveal_untrusted",
            f"{_SECURE}.shares.secret_untrusted",
        ),
    ),
    Target(
        name="secure.member",
        run=run_member,
        seeds=[bytes([n, n]) + encode(message) for n, (_, message) in enumerate(STEPS)],
        covers=(
            f"{_SECURE}.member.on_all_keys_untrusted",
            f"{_SECURE}.member.on_all_shares_untrusted",
            f"{_SECURE}.member.on_plan_untrusted",
            f"{_SECURE}.member.on_survivors_untrusted",
            f"{_SECURE}.member.on_sum_untrusted",
            f"{_SECURE}.member.on_sign_untrusted",
            f"{_SECURE}.member.on_certificate_untrusted",
            f"{_SECURE}.member.on_secrets_untrusted",
            f"{_SECURE}.shares.common_mask_untrusted",
            f"{_SECURE}.signing.check_members_untrusted",
            f"{_SECURE}.signing.check_shares_untrusted",
        ),
    ),
    Target(
        name="secure.signed",
        run=run_signed,
        seeds=[bytes([number]) + encode(message) for number, message in enumerate(SIGNED)],
        covers=(
            f"{_SECURE}.signing.check_keys_untrusted",
            f"{_SECURE}.signing.check_end_untrusted",
            f"{_SECURE}.signing.check_agreement_untrusted",
            f"{_SECURE}.signing.check_certificate_untrusted",
        ),
    ),
    Target(
        name="secure.box",
        run=run_box,
        seeds=(BOX, bytes(32)),
        covers=(f"{_SECURE}.sealing.agree_untrusted", f"{_SECURE}.sealing.open_untrusted"),
    ),
    Target(
        name="secure.parts",
        run=run_parts,
        seeds=(
            bytes([0, 0]) + (0).to_bytes(2, "big") + (12).to_bytes(2, "big"),
            bytes([1, 1]) + (3).to_bytes(2, "big") + (24).to_bytes(2, "big"),
        ),
        covers=(
            f"{_SECURE}.parts.buffer_untrusted",
            f"{_SECURE}.parts.of_untrusted",
        ),
    ),
)
