"""The messages of state download: round trips, limits, random bytes, recorded bytes."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.state.schema import (
    MANIFEST_BYTES_MAX,
    WAIT_S_MAX,
    ChunkAnswer,
    ChunkRequest,
    ManifestAnswer,
    ManifestRequest,
)
from p2p import Message, MessageInvalid, decode_untrusted, encode

ANSWER = ManifestAnswer(
    7, b"meta", ("a", "b"), ((2, 3), ()), ("float32", "int64"), 1 << 18, bytes(range(32))
)
# Bytes as version 1 of the protocol sends them; a change that breaks this needs a new version.
RECORDED: list[tuple[Message, str]] = [
    (ManifestRequest(5, 2.5), "9205cb4004000000000000"),
    (
        ANSWER,
        "9707c4046d65746192a161a1629292020390"
        "92a7666c6f61743332a5696e743634ce00040000c420"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    ),
    (ChunkRequest(bytes(32), 3), "92c420" + "00" * 32 + "03"),
    (ChunkAnswer(3), "9103"),
]
KINDS = [ManifestRequest, ManifestAnswer, ChunkRequest, ChunkAnswer]


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    decoded = decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=4096)
    assert decoded == message


@pytest.mark.parametrize(
    "message",
    [
        ManifestRequest(-1, 1.0),
        ManifestRequest(2**63, 1.0),
        ManifestRequest(1, float("nan")),
        ManifestRequest(1, WAIT_S_MAX + 1),
        ChunkRequest(bytes(31), 0),
        ChunkRequest(bytes(32), -1),
        ChunkAnswer(2**31),
        msgspec.structs.replace(ANSWER, chunk_size_bytes=0),
        msgspec.structs.replace(ANSWER, chunk_size_bytes=1 << 30),
        msgspec.structs.replace(ANSWER, shapes=((-1,), ())),
        msgspec.structs.replace(ANSWER, shapes=((1,) * 17, ())),
        msgspec.structs.replace(ANSWER, names=("", "b")),
        msgspec.structs.replace(ANSWER, metadata=bytes(2 << 20)),
    ],
)
def test_values_out_of_range_are_refused(message: Message) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), type(message), size_bytes_max=MANIFEST_BYTES_MAX)


@given(data=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_random_bytes_raise_only_message_invalid(data: bytes, kind: type[Message]) -> None:
    with contextlib.suppress(MessageInvalid):
        decode_untrusted(data, kind, size_bytes_max=4096)


@given(at=st.integers(0, 200), value=st.integers(0, 255), recorded=st.sampled_from(RECORDED))
def test_flipped_bytes_raise_only_message_invalid(
    at: int, value: int, recorded: tuple[Any, str]
) -> None:
    message, text = recorded
    data = bytearray.fromhex(text)
    data[at % len(data)] = value
    with contextlib.suppress(MessageInvalid):
        decode_untrusted(bytes(data), type(message), size_bytes_max=4096)
