"""The messages of split learning: recorded bytes, limits, noise."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Message, MessageInvalid, decode_untrusted, encode
from training.split import schema

HELLO = schema.Hello(
    session=bytes(16),
    completed=2,
    resumes=True,
    model_hash=bytes(32),
    cut_shape=(16, 4),
    output_shape=(),
    dtype="float32",
    codec="int8",
    label_side="server",
    brings_labels=True,
    party=0,
    window=1,
    task_weight=1.0,
)
RECORDED: list[tuple[Message, str]] = [
    (
        HELLO,
        f"9ea568656c6c6fc410{16 * '00'}02c3c420{32 * '00'}9210049"
        "0a7666c6f61743332a4696e7438a6736572766572c30001cb3ff0000000000000",
    ),
    (
        schema.Forward(1, 2, 8, (), "int64", b"x"),
        "97a7666f727761726401020890a5696e743634c40178",
    ),
    (schema.OutputGradient(3), "92af6f75747075742d6772616469656e7403"),
    (schema.Evaluate(4, 5), "94a86576616c756174650405c400"),
    (schema.AskTurn(6), "92a861736b2d7475726e06"),
    (schema.EndTurn(7, bytes(32)), "94a8656e642d7475726e07c420" + 32 * "00" + "90"),
    (schema.AskLeave(8), "92a961736b2d6c6561766508"),
    (schema.MayLeave(8), "92a96d61792d6c6561766508"),
    (schema.Bye(), "91a3627965"),
    (schema.Welcome(2, 1, "own"), "94a777656c636f6d650201a36f776e"),
    (schema.Output(1, (4,)), "93a66f7574707574019104"),
    (schema.Gradient(1, 0.5), "93a86772616469656e7401cb3fe0000000000000"),
    (schema.Turn(6, 1, "peer", b"d"), "96a47475726e0601a470656572c4016490"),
    (schema.TurnEnded(7, 2), "93aa7475726e2d656e6465640702"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED, ids=lambda one: type(one).__name__)
def test_messages_are_the_bytes_that_were_recorded(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    kinds = typing.cast("type[Message]", schema.FromClient | schema.FromServer)
    assert decode_untrusted(encode(message), kinds, size_bytes_max=8192) == message


def test_all_messages_are_recorded() -> None:
    kinds = {*typing.get_args(schema.FromClient), *typing.get_args(schema.FromServer)}
    assert kinds == {type(message) for message, _ in RECORDED}


@given(st.binary(max_size=80))
def test_noise_is_no_message(noise: bytes) -> None:
    for kinds in (schema.FromClient, schema.FromServer):
        try:
            message = decode_untrusted(
                noise, typing.cast("type[Message]", kinds), size_bytes_max=80
            )
        except MessageInvalid:
            continue
        assert isinstance(message, kinds)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": bytes(15)},
        {"cut_shape": (0,)},
        {"cut_shape": (1,) * 9},
        {"dtype": "int8"},
        {"window": 0},
        {"task_weight": 0.0},
        {"task_weight": 1.5},
        {"task_weight": float("nan")},
        {"party": 64},
    ],
)
def test_senseless_hellos_are_refused(changes: dict[str, object]) -> None:
    wrong = msgspec.structs.replace(HELLO, **changes)
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(wrong), schema.Hello, size_bytes_max=8192)
