"""The record of progress: round trip, limits, random bytes, recorded bytes."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import RoundId
from p2p import Message, MessageInvalid, decode_untrusted, encode
from training.progress import schema
from training.progress.position import PeerRecord, Position

RECORD = PeerRecord(
    position=Position(RoundId(9, bytes([1]) * 32), 8, 2048, (64.0, -0.5)),
    spec_hash=bytes([2]) * 32,
    samples=100,
    samples_per_s=12.5,
    role="client",
    holds_state=False,
    waits=True,
    period_s=0.25,
    sketch=(1.5,) * 16,
    sequence=1_735_689_600_000,
)
MESSAGE = schema.message_of(RECORD, life_s=30.0, addresses=("/ip4/1.2.3.4/tcp/5",))
MEMORY_BYTES = "92cb4050000000000000cbbfe0000000000000"
SKETCH_BYTES = "dc0010" + "cb3ff8000000000000" * 16
# Bytes as version 1 of the protocol sends them; a change that breaks this needs a new version.
RECORDED: list[tuple[Message, str]] = [
    (
        MESSAGE,
        "dc001009c420"
        + "01" * 32
        + "08cd0800c420"
        + "02" * 32
        + "64cb4029000000000000a6636c69656e74c2c3cb3fd0000000000000"
        + "cf000001941f297c00cb403e00000000000091b2"
        + b"/ip4/1.2.3.4/tcp/5".hex()
        + MEMORY_BYTES
        + SKETCH_BYTES,
    ),
    (schema.ProgressAnswer(), "91c0"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=999) == message


def test_older_versions_know_no_schedules_memory_and_no_sketch() -> None:
    fields = RECORDED[0][1].removeprefix("dc0010").removesuffix(MEMORY_BYTES + SKETCH_BYTES)
    assert schema.decode_record_untrusted(bytes.fromhex("9e" + fields)) == msgspec.structs.replace(
        MESSAGE, batch_memory=(), sketch=()
    )


def test_a_record_survives_the_wire() -> None:
    assert schema.record_of(schema.decode_record_untrusted(encode(MESSAGE))) == RECORD
    answer = schema.ProgressAnswer(MESSAGE)
    decoded = decode_untrusted(encode(answer), schema.ProgressAnswer, size_bytes_max=999)
    assert decoded == answer


@pytest.mark.parametrize(
    "changes",
    [
        {"round_number": -1},
        {"parent": b"short"},
        {"spec_hash": b""},
        {"samples": -1},
        {"samples": 2**60},
        {"samples_per_s": float("nan")},
        {"samples_per_s": float("inf")},
        {"samples_per_s": -1.0},
        {"role": "king"},
        {"period_s": -1.0},
        {"life_s": 0.0},
        {"life_s": 1e9},
        {"addresses": ("x",) * 17},
        {"addresses": ("x" * 257,)},
        {"step": 10},
        {"batch_memory": (float("nan"),)},
        {"batch_memory": (1e301,)},
        {"batch_memory": (1.0,) * 9},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MessageInvalid):
        schema.decode_record_untrusted(encode(msgspec.structs.replace(MESSAGE, **changes)))


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_only_message_invalid(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        schema.decode_record_untrusted(data)


@given(at=st.integers(0, 500), value=st.integers(0, 255))
def test_flipped_bytes_raise_only_message_invalid(at: int, value: int) -> None:
    data = bytearray(encode(MESSAGE))
    data[at % len(data)] = value
    with contextlib.suppress(MessageInvalid):
        schema.decode_record_untrusted(bytes(data))


def test_long_lists_of_addresses_are_cut() -> None:
    many = tuple(f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 40))
    assert len(schema.message_of(RECORD, life_s=1, addresses=many).addresses) == 16
