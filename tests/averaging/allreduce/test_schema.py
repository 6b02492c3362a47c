"""The all-reduce's messages: round trips, recorded bytes, limits, and random bytes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce import schema
from averaging.allreduce.hearing import evidence_of
from p2p import Message, MessageInvalid, decode_untrusted, encode

D, S = b"d" * 32, b"s" * 64
VOTE = schema.Vote((D, D), S)
COMMIT = schema.Commit((D,), (0, 2), (S, S))
PROMISE = schema.Promise(1, S)
PLAN = schema.Plan(258, (1, 0), S)
PIECE_END = schema.PieceEnd(D, 3, 1, 258, (D,), (1, 0), (1.0, 0.5), ("", "silent"), S, (2.0, 0.0))

DIGEST = "c420" + D.hex()
SIGNATURE = "c440" + S.hex()
VOTE_BYTES = f"93a4766f746592{DIGEST}{DIGEST}{SIGNATURE}"
PLAN_BYTES = f"94a4706c616ecd0102920100{SIGNATURE}"
COMMIT_BYTES = f"94a6636f6d6d697491{DIGEST}92000292{SIGNATURE}{SIGNATURE}"
PIECE_END_BYTES = (
    f"9ba970696563655f656e64{DIGEST}0301cd010291{DIGEST}920100"
    f"92cb3ff0000000000000cb3fe000000000000092a0a673696c656e74{SIGNATURE}"
    "92cb4000000000000000cb0000000000000000"
)

# Version 1, byte for byte: a change here is a change of the protocol.
RECORDED: list[tuple[Message, Any, str]] = [
    (schema.Hello(D), schema.FromMember, f"92a568656c6c6f{DIGEST}"),
    (
        schema.Weight(1.5, 2.0, S),
        schema.FromMember,
        f"94a6776569676874cb3ff8000000000000cb4000000000000000{SIGNATURE}",
    ),
    (schema.Part(7, 300), schema.FromMember, "93a47061727407cd012c"),
    (schema.Ping(), schema.FromMember, "91a470696e67"),
    (VOTE, schema.FromMember, VOTE_BYTES),
    (PLAN, schema.FromMember, PLAN_BYTES),
    (schema.Result(7, 300), schema.FromAggregator, "93a6726573756c7407cd012c"),
    (PIECE_END, schema.FromAggregator, PIECE_END_BYTES),
    (schema.Excluded("slow"), schema.FromAggregator, "92a86578636c75646564a4736c6f77"),
    (COMMIT, schema.FromAggregator, COMMIT_BYTES),
    (schema.Abort("no", True), schema.FromAggregator, "93a561626f7274a26e6fc3"),
    (PLAN, schema.FromAggregator, PLAN_BYTES),
    (schema.Ping(), schema.FromAggregator, "91a470696e67"),
    (
        schema.Question(D, PROMISE, True, PLAN, VOTE),
        schema.Question,
        f"95{DIGEST}9201{SIGNATURE}c3{PLAN_BYTES}{VOTE_BYTES}",
    ),
    (schema.Question(D), schema.Question, f"95{DIGEST}c0c2c0c0"),
    (
        schema.Answer(
            (schema.PieceStatus(1, D), schema.PieceStatus(2)),
            VOTE,
            COMMIT,
            (PROMISE,),
            True,
            PLAN,
            True,
            (PIECE_END,),
        ),
        schema.Answer,
        f"98929201{DIGEST}9202c400{VOTE_BYTES}{COMMIT_BYTES}919201{SIGNATURE}c3{PLAN_BYTES}c3"
        f"91{PIECE_END_BYTES}",
    ),
    (schema.Answer(()), schema.Answer, "9890c0c090c2c0c290"),
    (schema.Fetch(D, 3, D, 2), schema.Fetch, f"95a56665746368{DIGEST}03{DIGEST}02"),
    (schema.WhichGroup(D), schema.WhichGroup, f"91{DIGEST}"),
    (schema.ShownGroup(b"body"), schema.ShownGroup, "91c404626f6479"),
    (schema.Result(0, 0), schema.FromHolder, "93a6726573756c740000"),
    (PIECE_END, schema.FromHolder, PIECE_END_BYTES),
]


def test_the_major_version_is_the_first() -> None:
    assert schema.MAJOR == 1


@pytest.mark.parametrize(("message", "kind", "recorded"), RECORDED)
def test_messages_have_the_recorded_bytes(message: Message, kind: Any, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=4096) == message


def test_every_message_is_recorded() -> None:
    kinds = {
        thing
        for thing in vars(schema).values()
        if isinstance(thing, type)
        and issubclass(thing, Message)
        and thing.__module__ == schema.__name__
    }
    # These two travel in others only.
    assert kinds - {type(message) for message, _, _ in RECORDED} == {
        schema.PieceStatus,
        schema.Promise,
    }


def test_what_comes_last_may_be_missing() -> None:
    """Fields that are added later get the same treatment: old peers' messages stay valid."""
    for recorded, message in (
        (f"91{DIGEST}", schema.Question(D)),
        ("9190", schema.Answer(())),
        (f"94a56665746368{DIGEST}03{DIGEST}", schema.Fetch(D, 3, D)),
    ):
        kind = type(message)
        assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=4096) == message


ENDS = {"group_id": D, "piece": 0, "owner": 0, "plan": 0, "signature": S}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (schema.Hello(D[:31]), schema.FromMember),
        (schema.Weight(1.0, 1.0, S[:63]), schema.FromMember),
        (schema.Part(-1, 0), schema.FromMember),
        (schema.Part(0, -1), schema.FromMember),
        (schema.Part(schema.PIECES_MAX, 0), schema.FromMember),
        (schema.Part(0, schema.CHUNKS_MAX), schema.FromMember),
        (schema.Vote((D,) * (schema.PIECES_MAX + 1), S), schema.FromMember),
        (schema.Vote((D[:31],), S), schema.FromMember),
        (schema.Plan(-1, (0,), S), schema.FromMember),
        (
            schema.Plan((schema.PLAN_ROUNDS_MAX + 1) * schema.MEMBERS_MAX, (0,), S),
            schema.FromMember,
        ),
        (schema.Plan(256, (schema.MEMBERS_MAX,), S), schema.FromAggregator),
        (schema.Plan(256, (0,) * (schema.PIECES_MAX + 1), S), schema.FromAggregator),
        (schema.Plan(256, (0,), S[:63]), schema.FromAggregator),
        (schema.Result(schema.PIECES_MAX, 0), schema.FromAggregator),
        (schema.Result(0, schema.CHUNKS_MAX), schema.FromHolder),
        (schema.Commit((D,), (-1,), (S,)), schema.FromAggregator),
        (schema.Abort("x" * 201, True), schema.FromAggregator),
        (schema.Excluded("x" * 201), schema.FromAggregator),
        (
            schema.PieceEnd(chunks=(), included=(-1,), weights=(), reasons=(), **ENDS),
            schema.FromHolder,
        ),
        (
            schema.PieceEnd(
                chunks=(), included=(schema.CHUNKS_MAX + 1,), weights=(), reasons=(), **ENDS
            ),
            schema.FromHolder,
        ),
        (
            schema.PieceEnd(chunks=(), included=(), weights=(), reasons=("x" * 201,), **ENDS),
            schema.FromHolder,
        ),
        (
            schema.PieceEnd(
                chunks=(),
                included=(),
                weights=(1.0,) * (schema.MEMBERS_MAX + 1),
                reasons=(),
                **ENDS,
            ),
            schema.FromAggregator,
        ),
        (schema.Answer((schema.PieceStatus(4),)), schema.Answer),
        (schema.Answer((schema.PieceStatus(1, D + b"d"),)), schema.Answer),
        (schema.Answer((), evidence=(PIECE_END,) * 5), schema.Answer),
        (schema.Answer((), promises=(schema.Promise(schema.MEMBERS_MAX, S),)), schema.Answer),
        (schema.Fetch(D, schema.PIECES_MAX, D), schema.Fetch),
        (schema.Fetch(D, 0, D, schema.CHUNKS_MAX), schema.Fetch),
        (schema.Promise(schema.MEMBERS_MAX, S), schema.Promise),
        (schema.Result(0, 0), schema.FromMember),
        (schema.Part(0, 0), schema.FromAggregator),
        (PIECE_END, schema.FromMember),
        (schema.Weight(1.0, 1.0, S), schema.FromAggregator),
        (schema.Abort("no", True), schema.FromHolder),
    ],
)
def test_values_out_of_range_are_invalid(message: Message, kind: Any) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), kind, size_bytes_max=65_536)


def test_the_largest_messages_fit_their_methods() -> None:
    """A group at its limits must not fail for the size of what it has to say."""
    members, chunks, pieces = schema.MEMBERS_MAX, schema.CHUNKS_MAX, schema.PIECES_MAX
    end = schema.PieceEnd(
        group_id=D,
        piece=pieces - 1,
        owner=members - 1,
        plan=schema.PLAN_ROUNDS_MAX * members,
        chunks=(D,) * chunks,
        included=(chunks,) * members,
        weights=(1e18,) * members,
        reasons=("x" * 200,) * members,
        signature=S,
        norms=(1e18,) * members,
    )
    vote = schema.Vote((D,) * pieces, S)
    commit = schema.Commit((D,) * pieces, tuple(range(members)), (S,) * members)
    plan = schema.Plan(schema.PLAN_ROUNDS_MAX * members, (members - 1,) * pieces, S)
    for message, method in ((end, schema.TRANSFER), (end, schema.FETCH), (commit, schema.TRANSFER)):
        assert len(encode(message)) <= method.response_bytes_max
    few = msgspec.structs.replace(end, chunks=(D,) * (chunks // 4))
    evidence = evidence_of([end, few])
    assert evidence == (end,)
    evidence = evidence_of([few, end, few, few, few, few])
    assert evidence == (few,) * 4
    answer = schema.Answer(
        (schema.PieceStatus(1, D),) * pieces,
        vote,
        commit,
        tuple(schema.Promise(number, S) for number in range(members)),
        True,
        plan,
        True,
        evidence,
    )
    assert len(encode(answer)) <= schema.ASK.response_bytes_max
    question = schema.Question(D, PROMISE, True, plan, vote)
    for request, method in (
        (question, schema.ASK),
        (vote, schema.TRANSFER),
        (plan, schema.TRANSFER),
    ):
        assert len(encode(request)) <= method.request_bytes_max


KINDS: list[Any] = [
    schema.FromMember,
    schema.FromAggregator,
    schema.FromHolder,
    schema.Question,
    schema.Answer,
    schema.Fetch,
    schema.WhichGroup,
    schema.ShownGroup,
]


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_random_bytes_are_invalid_or_a_message(data: bytes, kind: Any) -> None:
    try:
        message = decode_untrusted(data, kind, size_bytes_max=4096)
    except MessageInvalid:
        return
    assert decode_untrusted(encode(message), kind, size_bytes_max=4096) == message


@given(st.sampled_from(RECORDED), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_invalid_or_another_message(
    recorded: tuple[Message, Any, str], position: int, value: int
) -> None:
    data = bytearray.fromhex(recorded[2])
    data[position % len(data)] = value
    try:
        decode_untrusted(data, recorded[1], size_bytes_max=4096)
    except MessageInvalid:
        return
