"""The messages of homomorphic sums: recorded bytes, and limits."""

import pytest

from averaging.homomorphic.schema import (
    KEY,
    MODULUS,
    MODULUS_BYTES_MAX,
    SECRET_BYTES_MAX,
    SUM,
    Contribution,
    KeyAnswer,
    KeyRequest,
    ModulusAnswer,
    Part,
    Sum,
)
from p2p import Message, MessageInvalid, decode_untrusted, encode

DIGEST = bytes(range(32))
NAME = bytes(range(16))
# Bytes as version 1 of the protocol sends them; a change that breaks this needs a new version.
RECORDED: list[tuple[Message, str]] = [
    (KeyRequest(DIGEST), "91c420" + DIGEST.hex()),
    (KeyAnswer(b"secret"), "91c406736563726574"),
    (ModulusAnswer(NAME, b"n"), "92c410" + NAME.hex() + "c4016e"),
    (
        Contribution(DIGEST, NAME, 7, 61844),
        "95ac636f6e747269627574696f6ec420" + DIGEST.hex() + "c410" + NAME.hex() + "07cdf194",
    ),
    (Sum((0, 2), 300), "93a373756d920002cd012c"),
    (Part(), "91a470617274"),
]
KINDS = {
    Contribution: SUM.request_type,
    Sum: SUM.response_type,
    KeyRequest: KEY.request_type,
    KeyAnswer: KEY.response_type,
    ModulusAnswer: MODULUS.response_type,
}


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    kind = KINDS.get(type(message), SUM.request_type)
    assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=512) == message


@pytest.mark.parametrize(
    "message",
    [
        KeyRequest(DIGEST[1:]),
        KeyAnswer(b""),
        KeyAnswer(bytes(SECRET_BYTES_MAX + 1)),
        ModulusAnswer(NAME[1:], b""),
        ModulusAnswer(NAME, bytes(MODULUS_BYTES_MAX + 1)),
        Contribution(DIGEST, NAME, -1, 1),
        Contribution(DIGEST, NAME, 0, 0),
        Sum((-1,), 1),
        Sum((0,), 2**40),
    ],
)
def test_what_is_out_of_range_is_refused(message: Message) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), type(message), size_bytes_max=1 << 20)
