"""Metadata of a snapshot: round trip, limits, random bytes, recorded bytes."""

import contextlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import RoundId
from p2p import MessageInvalid, encode
from training.progress import Position
from training.state_metadata import (
    StateMetadata,
    decode_metadata_untrusted,
    encode_metadata,
    position_from_dict,
    position_to_dict,
)

POSITION = Position(RoundId(9, bytes([7]) * 32), 8, 2048, (64.0, -0.5))
SCALARS = (("0.weight", "step", 8), ("0.weight", "rate", 0.5), ("0.weight", "buffer", None))
# Bytes as version 1 sends them; a change that breaks this needs a new version.
RECORDED = (
    "9709c420" + "07" * 32 + "08cd0800c393"
    "93a8302e776569676874a47374657008"
    "93a8302e776569676874a472617465cb3fe0000000000000"
    "93a8302e776569676874a6627566666572c0"
    "92cb4050000000000000cbbfe0000000000000"
)


def test_recorded_bytes() -> None:
    data = encode_metadata(POSITION, equalized=True, scalars=SCALARS)
    assert data.hex() == RECORDED
    metadata = decode_metadata_untrusted(data, version=9)
    assert metadata.position == POSITION
    assert metadata.equalized
    assert metadata.scalars == SCALARS


def test_older_versions_know_no_schedules_memory() -> None:
    data = bytes.fromhex("9609c420" + "07" * 32 + "08cd0800c390")
    assert decode_metadata_untrusted(data, version=9).position == replace(POSITION, batch_memory=())


def test_a_checkpoint_keeps_the_whole_position() -> None:
    saved = position_to_dict(POSITION)
    assert position_from_dict(saved) == POSITION
    del saved["batch_memory"]
    assert position_from_dict(saved) == replace(POSITION, batch_memory=()), "an older version's"


GOOD = StateMetadata(9, bytes(32), 8, 2048, False, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"round_number": 10},
        {"round_number": -1},
        {"parent": bytes(31)},
        {"step": 10},
        {"samples": -1},
        {"scalars": (("x" * 600, "step", 1),)},
        {"scalars": (("x", "step", b"bytes"),)},
        {"scalars": (("x", "step"),)},
        {"batch_memory": (float("nan"),)},
        {"batch_memory": (float("inf"),)},
        {"batch_memory": (1.0,) * 9},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    decode_metadata_untrusted(encode(GOOD), version=9)
    with pytest.raises(MessageInvalid):
        decode_metadata_untrusted(encode(msgspec.structs.replace(GOOD, **changes)), version=9)


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_only_message_invalid(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        decode_metadata_untrusted(data, version=9)


@given(at=st.integers(0, 500), value=st.integers(0, 255))
def test_flipped_bytes_raise_only_message_invalid(at: int, value: int) -> None:
    data = bytearray.fromhex(RECORDED)
    data[at % len(data)] = value
    with contextlib.suppress(MessageInvalid):
        decode_metadata_untrusted(bytes(data), version=9)
