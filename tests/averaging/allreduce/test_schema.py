"""The all-reduce's messages: round trips, recorded bytes, limits, and random bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce import schema
from p2p import Message, MessageInvalid, decode_untrusted, encode

D, S = b"d" * 32, b"s" * 64
VOTE = schema.Vote((D, D), S)
COMMIT = schema.Commit((D,), (0, 2), (S, S))
PROMISE = schema.Promise(1, S)
SPAN_END = schema.SpanEnd(D, 1, (D,), (1, 0), (1.0, 0.5), ("", "silent"), S)

DIGEST = "c420" + D.hex()
SIGNATURE = "c440" + S.hex()

# Version 1, byte for byte: a change here is a change of the protocol.
RECORDED: list[tuple[Message, Any, str]] = [
    (
        schema.Hello(D, 1.5, S),
        schema.FromMember,
        f"94a568656c6c6f{DIGEST}cb3ff8000000000000{SIGNATURE}",
    ),
    (schema.Part(7), schema.FromMember, "92a47061727407"),
    (schema.Ping(), schema.FromMember, "91a470696e67"),
    (VOTE, schema.FromMember, f"93a4766f746592{DIGEST}{DIGEST}{SIGNATURE}"),
    (schema.Result(300), schema.FromAggregator, "92a6726573756c74cd012c"),
    (
        SPAN_END,
        schema.FromAggregator,
        f"98a87370616e5f656e64{DIGEST}0191{DIGEST}920100"
        f"92cb3ff0000000000000cb3fe000000000000092a0a673696c656e74{SIGNATURE}",
    ),
    (COMMIT, schema.FromAggregator, f"94a6636f6d6d697491{DIGEST}92000292{SIGNATURE}{SIGNATURE}"),
    (schema.Abort("no"), schema.FromAggregator, "92a561626f7274a26e6f"),
    (schema.Ping(), schema.FromAggregator, "91a470696e67"),
    (schema.Question(D, PROMISE, True), schema.Question, f"93{DIGEST}9201{SIGNATURE}c3"),
    (schema.Question(D), schema.Question, f"93{DIGEST}c0c2"),
    (
        schema.Answer(
            (schema.SpanStatus(1, D), schema.SpanStatus(2)), VOTE, None, (PROMISE,), True
        ),
        schema.Answer,
        f"95929201{DIGEST}9202c40093a4766f746592{DIGEST}{DIGEST}{SIGNATURE}c0919201{SIGNATURE}c3",
    ),
    (schema.Fetch(D, 3, D, 2), schema.Fetch, f"95a56665746368{DIGEST}03{DIGEST}02"),
    (schema.WhichGroup(D), schema.WhichGroup, f"91{DIGEST}"),
    (schema.ShownGroup(b"body"), schema.ShownGroup, "91c404626f6479"),
    (schema.Result(0), schema.FromHolder, "92a6726573756c7400"),
]


@pytest.mark.parametrize(("message", "kind", "recorded"), RECORDED)
def test_messages_have_the_recorded_bytes(message: Message, kind: Any, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=4096) == message


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (schema.Hello(D[:31], 1.0, S), schema.FromMember),
        (schema.Hello(D, 1.0, S[:63]), schema.FromMember),
        (schema.Part(-1), schema.FromMember),
        (schema.Part(schema.CHUNKS_MAX), schema.FromMember),
        (schema.Vote((D,) * (schema.MEMBERS_MAX + 1), S), schema.FromMember),
        (schema.Commit((D,), (-1,), (S,)), schema.FromAggregator),
        (schema.Abort("x" * 201), schema.FromAggregator),
        (schema.Answer((schema.SpanStatus(4),)), schema.Answer),
        (schema.Promise(schema.MEMBERS_MAX, S), schema.Promise),
        (schema.Result(0), schema.FromMember),
        (schema.Part(0), schema.FromAggregator),
    ],
)
def test_values_out_of_range_are_invalid(message: Message, kind: Any) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), kind, size_bytes_max=65_536)


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
