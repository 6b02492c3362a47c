"""Targets of averaging: its messages, and what is signed in a round."""

from __future__ import annotations

from typing import Any

import averaging
from averaging.allreduce import manifest
from averaging.allreduce import schema as allreduce
from averaging.allreduce.partition import partition
from averaging.matchmaking import schema as matchmaking
from averaging.matchmaking.group import (
    Join,
    body_of,
    form_group,
    join_on_wire,
    parse_group_untrusted,
    parse_join_untrusted,
    quorum_reached,
    sign_join,
)
from averaging.matchmaking.plan import parse_planned_untrusted
from averaging.matchmaking.strangers import parse_record_untrusted
from averaging.round_id import RoundId
from averaging.state.manifest import manifest_untrusted
from averaging.state.schema import MANIFEST_BYTES_MAX, ManifestAnswer
from p2p import Entry, Identity, MessageInvalid, decode_untrusted, encode, owned_subkey
from tests.averaging.allreduce.test_schema import RECORDED as RECORDED_ALLREDUCE
from tests.averaging.matchmaking.test_schema import CASES as RECORDED_MATCHMAKING
from tests.averaging.state.test_schema import ANSWER as STATE_ANSWER
from tests.averaging.state.test_schema import RECORDED as RECORDED_STATE
from tests.fuzz.known import ALICE, BOB, CAROL
from tests.fuzz.messages import kinds_of, message_target, modules_of
from tests.fuzz.target import Target

ROUND = RoundId(7, b"p" * 32)
SPEC_HASH = b"s" * 32
ADDRESS = "/ip4/10.0.0.1/tcp/4001"


def join_of(identity: Identity) -> Join:
    """A member's signed JOIN."""
    return sign_join(
        Join(
            peer_id=identity.peer_id,
            group_name="run",
            round=ROUND,
            spec_hash=SPEC_HASH,
            terms="float16",
            role="node",
            weight_cap=2.5,
            up_bytes_per_s=125_000,
            down_bytes_per_s=0,
            nonce=b"n" * 16,
            addresses=(ADDRESS,),
            previous=b"",
            abandoned=False,
        ),
        identity.sign,
    )


JOINS = tuple(map(join_of, (ALICE, BOB, CAROL)))
GROUP, GROUP_BODY = form_group(
    JOINS,
    chunk_elements=4096,
    span_elements=(8192, 8192, 3616),
    deadline_s=30.0,
    attempt=0,
    previous=b"",
)

# Matchmaking


def run_join(data: bytes) -> None:
    try:
        signed = decode_untrusted(data, matchmaking.SignedJoin, size_bytes_max=4096)
        join = parse_join_untrusted(signed)
    except MessageInvalid:
        return
    # Nobody has signed anything else, and one JOIN has one spelling.
    assert join in JOINS
    assert join_on_wire(join) == signed


def run_group(data: bytes) -> None:
    try:
        group = parse_group_untrusted(data)
    except MessageInvalid:
        return
    assert set(group.members) <= set(JOINS)
    parse_group_untrusted(body_of(group))
    try:
        assert parse_planned_untrusted(data, 20_000) == group
    except MessageInvalid:
        return
    assert sum(group.span_elements) == 20_000


def run_stranger(data: bytes) -> None:
    # The first byte is the length of the subkey; the owner is who signed the record.
    size = data[0] if data else 0
    subkey = data[1 : 1 + size].decode("utf-8", "replace")
    entry = Entry(data[1 + size :], 30.0, ALICE.peer_id, 1)
    try:
        candidate = parse_record_untrusted(subkey, entry, SPEC_HASH)
    except MessageInvalid:
        return
    assert candidate is None or candidate.peer_id == ALICE.peer_id


# The all-reduce

MEMBERS = GROUP.peer_ids
BY_ID = {identity.peer_id: identity for identity in (ALICE, BOB, CAROL)}
SPANS = partition(20_000, len(MEMBERS), 4096)
DIGESTS = tuple(bytes([number]) * 32 for number in range(len(SPANS)))
GROUP_ID = GROUP.group_id
HELLO = manifest.signed_hello(GROUP_ID, 1.5, BY_ID[MEMBERS[0]].sign)
SPAN_END = manifest.signed_span_end(
    allreduce.SpanEnd(
        GROUP_ID,
        0,
        tuple(DIGESTS[0] for _ in SPANS[0].chunks),
        (0, 1, len(SPANS[0].chunks)),
        (0.0, 1.0, 2.0),
        ("silent", "", ""),
        bytes(64),
    ),
    BY_ID[MEMBERS[0]].sign,
)
VOTES = [manifest.signed_vote(GROUP_ID, DIGESTS, BY_ID[member].sign) for member in MEMBERS]
COMMIT = allreduce.Commit(DIGESTS, (0, 2), (VOTES[0].signature, VOTES[2].signature))
PROMISE = manifest.signed_promise(GROUP_ID, 1, BY_ID[MEMBERS[1]].sign)

SIGNED_KINDS: tuple[Any, ...] = (
    allreduce.Hello,
    allreduce.SpanEnd,
    allreduce.Vote,
    allreduce.Commit,
    allreduce.Promise,
)


def check_signed(message: Any) -> None:
    """The check that each kind of message goes through."""
    match message:
        case allreduce.Hello():
            manifest.check_hello_untrusted(message, MEMBERS[0])
        case allreduce.SpanEnd():
            manifest.check_span_end_untrusted(message, GROUP_ID, MEMBERS, SPANS[0], len(MEMBERS))
        case allreduce.Vote():
            manifest.check_vote_untrusted(message, GROUP_ID, MEMBERS[0], len(SPANS))
        case allreduce.Commit():
            manifest.check_commit_untrusted(message, GROUP_ID, MEMBERS, len(SPANS), quorum_reached)
        case allreduce.Promise():
            manifest.check_promise_untrusted(message, GROUP_ID, MEMBERS)


def run_signed(data: bytes) -> None:
    kind = SIGNED_KINDS[data[0] % len(SIGNED_KINDS)] if data else SIGNED_KINDS[0]
    try:
        message = decode_untrusted(data[1:], kind, size_bytes_max=65_536)
        check_signed(message)
    except MessageInvalid:
        return
    if isinstance(message, allreduce.Commit):
        assert message.spans == DIGESTS
    elif isinstance(message, allreduce.Hello):
        # The group of a hello is looked up before; the signature covers what it names.
        assert message == HELLO
    else:
        assert message in (SPAN_END, VOTES[0], PROMISE)


# State download


def run_state_manifest(data: bytes) -> None:
    try:
        answer = decode_untrusted(data, ManifestAnswer, size_bytes_max=MANIFEST_BYTES_MAX)
        checked = manifest_untrusted(answer)
    except MessageInvalid:
        return
    assert checked.answer() == answer
    end = 0
    for index in range(len(checked.digests)):
        start, stop = checked.span(index)
        assert start == end < stop
        end = stop
    assert end == checked.table.size_bytes


def recorded() -> list[tuple[Any, bytes]]:
    """Real messages of all three protocols."""
    pairs = [(message, text) for message, _, text in RECORDED_ALLREDUCE]
    return [
        (message, bytes.fromhex(text))
        for message, text in (*pairs, *RECORDED_MATCHMAKING, *RECORDED_STATE)
    ]


TARGETS = (
    message_target("averaging.messages", kinds_of(modules_of(averaging)), recorded()),
    Target(
        name="averaging.join",
        run=run_join,
        seeds=[encode(join_on_wire(join)) for join in JOINS],
        covers=(
            "averaging.matchmaking.group.parse_join_untrusted",
            "averaging.matchmaking.group._hash_or_empty_untrusted",
        ),
    ),
    Target(
        name="averaging.group",
        run=run_group,
        seeds=(GROUP_BODY,),
        covers=(
            "averaging.matchmaking.group.parse_group_untrusted",
            "averaging.matchmaking.plan.check_plan_untrusted",
            "averaging.matchmaking.plan.parse_planned_untrusted",
            "averaging.allreduce.balance.check_spans_untrusted",
        ),
    ),
    Target(
        name="averaging.stranger",
        run=run_stranger,
        seeds=(
            bytes([len(owned_subkey(ALICE.peer_id))])
            + owned_subkey(ALICE.peer_id).encode()
            + encode(
                matchmaking.CandidateRecord((ADDRESS,), matchmaking.round_on_wire(ROUND), SPEC_HASH)
            ),
        ),
        covers=("averaging.matchmaking.strangers.parse_record_untrusted",),
    ),
    Target(
        name="averaging.signed",
        run=run_signed,
        seeds=[
            bytes([number]) + encode(message)
            for number, message in enumerate((HELLO, SPAN_END, VOTES[0], COMMIT, PROMISE))
        ],
        covers=tuple(
            f"averaging.allreduce.manifest.check_{what}_untrusted"
            for what in ("hello", "span_end", "vote", "commit", "promise")
        ),
    ),
    Target(
        name="averaging.state-manifest",
        run=run_state_manifest,
        seeds=(
            encode(STATE_ANSWER),
            encode(ManifestAnswer(1, b"", ("w",), ((3, 5),), ("int8",), 4, bytes(128))),
        ),
        covers=("averaging.state.manifest.manifest_untrusted",),
    ),
)
