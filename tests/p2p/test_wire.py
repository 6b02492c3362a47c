"""Messages on the wire: round trips, recorded bytes, limits, and garbage."""

from typing import Annotated

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p import Message, MessageInvalid, decode_untrusted, encode

LIMIT = 10_000


class Plain(Message, frozen=True):
    """Fields of every kind that messages of ours have."""

    number: Annotated[int, msgspec.Meta(ge=0, le=1_000)]
    name: Annotated[str, msgspec.Meta(max_length=20)]
    data: Annotated[bytes, msgspec.Meta(max_length=20)]
    items: Annotated[list[int], msgspec.Meta(max_length=5)]
    note: str | None = None


class Start(Message, frozen=True, tag="start"):
    """One of a union."""

    at: float


class Stop(Message, frozen=True, tag="stop"):
    """The other one."""


plain_messages = st.builds(
    Plain,
    number=st.integers(0, 1_000),
    name=st.text(max_size=20),
    data=st.binary(max_size=20),
    items=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    note=st.none() | st.text(max_size=20),
)


@given(plain_messages)
def test_a_message_survives_a_round_trip(message: Plain) -> None:
    data = encode(message)
    for form in (data, bytearray(data), memoryview(data)):
        assert decode_untrusted(form, Plain, size_bytes_max=LIMIT) == message


@given(st.builds(Start, st.floats(allow_nan=False)) | st.just(Stop()))
def test_members_of_a_union_are_told_apart(message: Start | Stop) -> None:
    assert decode_untrusted(encode(message), Start | Stop, size_bytes_max=LIMIT) == message  # type: ignore[arg-type]


def test_recorded_bytes() -> None:
    assert encode(Plain(7, "ab", b"\x01", [1, -1])).hex() == "9507a26162c401019201ffc0"
    assert encode(Start(0.5)).hex() == "92a57374617274cb3fe0000000000000"
    assert encode(Stop()).hex() == "91a473746f70"


def test_a_field_added_later_does_not_disturb_old_readers_nor_its_absence_new_ones() -> None:
    class Newer(Plain, frozen=True):
        added: int = 5

    old = Plain(1, "a", b"", [])
    new = decode_untrusted(encode(old), Newer, size_bytes_max=LIMIT)
    assert (new.number, new.added) == (1, 5)
    sent = encode(Newer(1, "a", b"", [], None, 9))
    assert decode_untrusted(sent, Plain, size_bytes_max=LIMIT) == old


@pytest.mark.parametrize(
    "fields",
    [
        [1_001, "a", b"", []],
        [-1, "a", b"", []],
        [1.5, "a", b"", []],
        [True, "a", b"", []],
        ["1", "a", b"", []],
        [1, "a" * 21, b"", []],
        [1, b"a", b"", []],
        [1, "a", b"x" * 21, []],
        [1, "a", "text", []],
        [1, "a", b"", [1] * 6],
        [1, "a", b"", ["1"]],
        [1, "a", b"", {}],
        [1, "a", b""],
        [],
        {"number": 1, "name": "a", "data": b"", "items": []},
        None,
        7,
    ],
)
def test_what_is_not_as_declared_is_invalid(fields: object) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(msgpack.packb(fields), Plain, size_bytes_max=LIMIT)


@given(st.binary(max_size=100))
@example(b"")
@example(b"\xc1")
@example(b"\x95" * 100)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdb\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xc9\xff\xff\xff\xff\x01")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\x80\x01")
@example(b"\x81\x90\x01")
def test_garbage_is_invalid_and_nothing_else(data: bytes) -> None:
    for kind in (Plain, Start | Stop):
        try:
            decode_untrusted(data, kind, size_bytes_max=LIMIT)  # type: ignore[arg-type]
        except MessageInvalid:
            continue


@given(plain_messages, st.data())
def test_a_damaged_message_is_valid_or_invalid_but_nothing_worse(
    message: Plain, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message))
    index = data.draw(st.integers(0, len(damaged) - 1))
    damaged[index] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_untrusted(bytes(damaged), Plain, size_bytes_max=LIMIT)
    except MessageInvalid:
        return
    assert 0 <= decoded.number <= 1_000
    assert len(decoded.name) <= 20


@pytest.mark.parametrize("depth", [100, 1_024, 5_000])
def test_deep_nesting_is_invalid(depth: int) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(b"\x91" * depth + b"\x01", Plain, size_bytes_max=LIMIT)


def test_too_long_is_refused_unread() -> None:
    data = encode(Plain(1, "a", b"", []))
    decode_untrusted(data, Plain, size_bytes_max=len(data))
    with pytest.raises(MessageInvalid, match=f"at most {len(data) - 1} allowed"):
        decode_untrusted(data, Plain, size_bytes_max=len(data) - 1)


def test_bytes_after_the_message_are_invalid() -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(Stop()) + b"\x00", Stop, size_bytes_max=LIMIT)
