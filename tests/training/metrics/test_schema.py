"""The record of metrics: round trip, limits, random bytes, recorded bytes."""

import contextlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Message, MessageInvalid, encode
from training.metrics import decode_metrics_untrusted, metrics_key
from training.metrics.schema import Metrics, metrics_of

MESSAGE = Metrics(8, 2048, 12.5, 0.25, "0.1.0")
SILENT = Metrics(0, 0, 0.0, None, "")
# Bytes that trainers have published; a change that breaks this needs a new key.
RECORDED: list[tuple[Message, str]] = [
    (MESSAGE, "9508cd0800cb4029000000000000cb3fd0000000000000a5302e312e30"),
    (SILENT, "950000cb0000000000000000c0a0"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_metrics_untrusted(bytes.fromhex(recorded)) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 2**60},
        {"samples": -1},
        {"samples": 2.5},
        {"samples_per_s": math.nan},
        {"samples_per_s": math.inf},
        {"samples_per_s": -1.0},
        {"loss": math.nan},
        {"loss": math.inf},
        {"loss": -math.inf},
        {"loss": 1e300},
        {"loss": "low"},
        {"version": "x" * 33},
        {"version": "1.0\n"},
        {"version": "\x1b[2J"},
        {"version": 1},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MessageInvalid):
        decode_metrics_untrusted(encode(msgspec.structs.replace(MESSAGE, **changes)))


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(MessageInvalid):
        decode_metrics_untrusted(encode(MESSAGE) + bytes(300))


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_only_message_invalid(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        decode_metrics_untrusted(data)


@given(
    loss=st.none() | st.floats(),
    samples_per_s=st.floats(min_value=0, allow_nan=False),
    step=st.integers(0, 2**53),
)
def test_whatever_was_computed_others_can_read(
    loss: float | None, samples_per_s: float, step: int
) -> None:
    told = metrics_of(step=step, samples=step, samples_per_s=samples_per_s, loss=loss)
    assert decode_metrics_untrusted(encode(told)) == told


def test_runs_have_records_of_their_own() -> None:
    assert metrics_key("one") == "one/metrics" != metrics_key("other")
