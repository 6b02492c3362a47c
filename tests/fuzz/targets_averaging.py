"""Targets of averaging: its messages, and what is signed in a round."""

from __future__ import annotations

from typing import Any

import numpy as np

import averaging
from averaging.allreduce import manifest
from averaging.allreduce import schema as allreduce
from averaging.allreduce.balance import Capacity, check_spans_untrusted
from averaging.allreduce.partition import Piece, partition
from averaging.codecs.coded import CodedWire
from averaging.codecs.floating import FloatingWire, Run
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
from averaging.matchmaking.paths import digest_of
from averaging.matchmaking.plan import parse_planned_untrusted
from averaging.matchmaking.schema import Paths
from averaging.matchmaking.strangers import parse_record_untrusted
from averaging.round_id import RoundId
from averaging.state.manifest import manifest_untrusted
from averaging.state.schema import MANIFEST_BYTES_MAX, ManifestAnswer
from p2p import Entry, Identity, MessageInvalid, decode_untrusted, encode, owned_subkey
from tests.averaging.allreduce.test_schema import RECORDED as RECORDED_ALLREDUCE
from tests.averaging.codecs.samples import Bytes, Largest
from tests.averaging.matchmaking.test_schema import CASES as RECORDED_MATCHMAKING
from tests.averaging.state.test_schema import ANSWER as STATE_ANSWER
from tests.averaging.state.test_schema import RECORDED as RECORDED_STATE
from tests.fuzz.known import ALICE, BOB, CAROL
from tests.fuzz.messages import kinds_of, message_target, modules_of
from tests.fuzz.target import Choices, Target

ROUND = RoundId(7, b"p" * 32)
SPEC_HASH = b"s" * 32
ADDRESS = "/ip4/10.0.0.1/tcp/4001"
CONNECTED = digest_of(ALICE.peer_id) + digest_of(CAROL.peer_id)


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
            # One of them is behind a router, and connected to the others.
            paths=Paths(identity is not BOB, CONNECTED if identity is BOB else b""),
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
PIECES = partition(20_000, GROUP.span_elements, GROUP.chunk_elements)
DIGESTS = tuple(bytes([number]) * 32 for number in range(len(PIECES)))
GROUP_ID = GROUP.group_id
SIGNS = [BY_ID[member].sign for member in MEMBERS]
HELLO = allreduce.Hello(GROUP_ID)
WEIGHT = manifest.signed_weight(GROUP_ID, 1.5, 20.0, SIGNS[0])


def piece_end_of(piece: Piece, owner: int, plan: int) -> allreduce.PieceEnd:
    """A true one."""
    end = allreduce.PieceEnd(
        group_id=GROUP_ID,
        piece=piece.number,
        owner=owner,
        plan=plan,
        chunks=tuple(DIGESTS[0] for _ in piece.chunks),
        included=(0, 1, len(piece.chunks)),
        weights=(0.0, 1.0, 2.0),
        reasons=("silent", "", ""),
        signature=bytes(64),
        norms=(0.0, 3.0, 20.0),
    )
    return manifest.signed_piece_end(end, SIGNS[owner])


# Of one piece, by its owner, and by another that a plan made the owner.
PIECE_ENDS = (
    piece_end_of(PIECES[0], 0, 0),
    piece_end_of(PIECES[0], 2, allreduce.MEMBERS_MAX + 1),
)
PLAN = manifest.signed_plan(
    GROUP_ID, allreduce.MEMBERS_MAX + 1, [2] + [piece.owner for piece in PIECES[1:]], SIGNS[1]
)
VOTES = [manifest.signed_vote(GROUP_ID, DIGESTS, sign) for sign in SIGNS]
COMMIT = allreduce.Commit(DIGESTS, (0, 2), (VOTES[0].signature, VOTES[2].signature))
PROMISE = manifest.signed_promise(GROUP_ID, 1, SIGNS[1])
ANSWER = allreduce.Answer(
    tuple(allreduce.PieceStatus(1, digest) for digest in DIGESTS),
    VOTES[0],
    COMMIT,
    (PROMISE,),
    True,
    PLAN,
    False,
    PIECE_ENDS,
)
QUESTION = allreduce.Question(GROUP_ID, PROMISE, False, PLAN, VOTES[0])

SIGNED: tuple[Any, ...] = (
    WEIGHT,
    PIECE_ENDS[0],
    VOTES[0],
    COMMIT,
    PROMISE,
    PLAN,
    ANSWER,
    QUESTION,
)


def parts_of(message: Any) -> list[Any]:
    """What is signed in a message that carries several such things, itself not among them."""
    match message:
        case allreduce.Answer():
            some = (message.vote, message.commit, message.plan)
            whole = [*some, *message.promises, *message.evidence]
        case allreduce.Question():
            whole = [message.promise, message.plan, message.vote]
        case _:
            whole = []
    return [part for part in whole if part is not None]


def check_signed(message: Any) -> None:
    """The check that each kind of message goes through, and what must hold when it passes."""
    match message:
        case allreduce.Weight():
            manifest.check_weight_untrusted(message, GROUP_ID, MEMBERS[0])
            assert message == WEIGHT
        case allreduce.PieceEnd():
            manifest.check_piece_end_untrusted(message, GROUP_ID, MEMBERS, PIECES[0], len(MEMBERS))
            assert message in PIECE_ENDS
            assert not manifest.contradict(message, PIECE_ENDS[0])
        case allreduce.Vote():
            manifest.check_vote_untrusted(message, GROUP_ID, MEMBERS[0], len(PIECES))
            assert message == VOTES[0]
        case allreduce.Commit():
            manifest.check_commit_untrusted(message, GROUP_ID, MEMBERS, len(PIECES), quorum_reached)
            assert message.pieces == DIGESTS
        case allreduce.Promise():
            manifest.check_promise_untrusted(message, GROUP_ID, MEMBERS)
            assert message == PROMISE
        case allreduce.Plan():
            manifest.check_plan_untrusted(message, GROUP_ID, MEMBERS, len(MEMBERS), len(PIECES))
            assert message == PLAN
    for part in parts_of(message):
        check_signed(part)


def run_signed(data: bytes) -> None:
    kind = type(SIGNED[data[0] % len(SIGNED) if data else 0])
    try:
        # Nobody has signed anything else, so whatever passes is one of ours.
        check_signed(decode_untrusted(data[1:], kind, size_bytes_max=65_536))
    except MessageInvalid:
        return


def run_spans(data: bytes) -> None:
    """Two bytes are the number of elements; then one for each member's kind, and its span."""
    choices = Choices(data)
    element_count = choices.number(65_536)
    capacities, spans = [], []
    while choices.left and len(spans) < allreduce.MEMBERS_MAX:
        rates = (None, 0.0, 1e3, 125e3, 1e9)
        capacity = Capacity(
            contributes=bool(choices.number(2)),
            aggregates=bool(choices.number(2)),
            up_bytes_per_s=choices.pick(rates),
            down_bytes_per_s=choices.pick(rates),
        )
        capacities.append(capacity)
        if capacity.aggregates or not choices.number(8):
            spans.append(choices.number(65_536) - 8)
    try:
        check_spans_untrusted(spans, capacities, element_count)
    except MessageInvalid:
        return
    pieces = partition(element_count, spans, 4096)
    assert sum(piece.element_count for piece in pieces) == element_count


def span_seed(element_count: int, *members: tuple[int, int, int, int, int]) -> bytes:
    """Members that contribute or not, average or not, with rates by number, and their spans."""
    seed = element_count.to_bytes(2, "big")
    for contributes, aggregates, up, down, span in members:
        seed += bytes([contributes, aggregates, up, down])
        seed += (span + 8).to_bytes(2, "big") if aggregates else b"\x01"
    return seed


SPAN_SEEDS = (
    span_seed(20_000, (1, 1, 0, 0, 8192), (1, 1, 0, 0, 8192), (1, 1, 0, 0, 3616)),
    span_seed(12_000, (1, 1, 3, 3, 4096), (0, 1, 4, 4, 7904), (1, 0, 3, 2, 0)),
)

# Values as they travel

FLOATING = FloatingWire([Run(0, 50, "float32"), Run(50, 60, "float16")], np.dtype("float32"))
WIRES = (CodedWire(Bytes(), 40, FLOATING), CodedWire(Largest(0.2), 40, FLOATING), FLOATING)
CHUNKS = ((0, 30), (30, 60), (45, 60))


def run_values(data: bytes) -> None:
    """One byte for the wire and the chunk, then the payload."""
    number = data[0] if data else 0
    wire, (start, stop) = WIRES[number % 3], CHUNKS[number // 3 % 3]
    payload = bytearray(data[1:])
    try:
        wire.check_untrusted(payload, start, stop)
    except MessageInvalid:
        return
    assert wire.fits(len(payload), start, stop)
    assert len(payload) <= wire.size_limit_bytes(start, stop)
    assert wire.decode(payload, start, stop).shape == (stop - start,)


VALUE_SEEDS = tuple(
    bytes([index + 3 * place])
    + bytes(wire.encode_values(np.linspace(-1, 1, stop - start, dtype="float32"), start))
    for index, wire in enumerate(WIRES)
    for place, (start, stop) in enumerate(CHUNKS)
)

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
            "averaging.matchmaking.paths.check_paths_untrusted",
        ),
    ),
    Target(
        name="averaging.group",
        run=run_group,
        seeds=(GROUP_BODY,),
        covers=(
            "averaging.matchmaking.group.parse_group_untrusted",
            "averaging.matchmaking.plan.check_plan_untrusted",
            "averaging.matchmaking.plan._check_relayed_untrusted",
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
        seeds=[bytes([number]) + encode(message) for number, message in enumerate(SIGNED)],
        covers=tuple(
            f"averaging.allreduce.manifest.check_{what}_untrusted"
            for what in ("weight", "piece_end", "vote", "commit", "promise", "plan")
        ),
    ),
    Target(
        name="averaging.spans",
        run=run_spans,
        seeds=SPAN_SEEDS,
        covers=("averaging.allreduce.balance.check_spans_untrusted",),
    ),
    Target(
        name="averaging.values",
        run=run_values,
        seeds=VALUE_SEEDS,
        covers=(
            "averaging.codecs.coded.check_untrusted",
            "averaging.codecs.floating.check_untrusted",
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
