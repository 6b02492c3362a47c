"""The record of metrics: one trainer's part in a run, in the DHT under `<run>/metrics`.

It lies in the subkey that only its owner can write, so nobody speaks for another; but what it says
is the owner's word, which nobody checks. It serves people who watch, and decides nothing.
"""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from msgspec import Meta

from p2p import Message, decode_untrusted

RECORD_BYTES_MAX = 256
# As much as a float32 can hold; a loss beyond it is none.
LOSS_MAX = 3.4e38
SPEED_MAX = 1e12

Count = Annotated[int, Meta(ge=0, le=2**53)]
# Shown on terminals: no spaces, no control characters.
Version = Annotated[str, Meta(max_length=32, pattern=r"\A[0-9A-Za-z.+_-]*\Z")]


class Metrics(Message, frozen=True):
    """What a trainer says of its part."""

    step: Count
    """Global steps taken."""
    samples: Count
    """What it put into them since it joined, or since the run began if it resumed."""
    samples_per_s: Annotated[float, Meta(ge=0, le=SPEED_MAX)]
    loss: Annotated[float, Meta(ge=-LOSS_MAX, le=LOSS_MAX)] | None
    """The last it computed; None where it does not say, or it is no number."""
    version: Version
    """Of manyhands; empty where it is not known."""


def metrics_key(run: str) -> str:
    """Where the records of a run lie."""
    return f"{run}/metrics"


def metrics_of(*, step: int, samples: int, samples_per_s: float, loss: float | None) -> Metrics:
    """A record of ours that all can decode, whatever was computed."""
    within = loss is not None and math.isfinite(loss) and abs(loss) <= LOSS_MAX
    return Metrics(
        step, samples, min(samples_per_s, SPEED_MAX), loss if within else None, own_version()
    )


def own_version() -> str:
    """Of this installation; empty if it is none."""
    try:
        return version("manyhands")
    except PackageNotFoundError:
        return ""


def decode_metrics_untrusted(data: bytes) -> Metrics:
    """A record from the DHT.

    Raises:
        MessageInvalid: it is none.
    """
    return decode_untrusted(data, Metrics, size_bytes_max=RECORD_BYTES_MAX)
