"""The messages of progress: protocol `/manyhands/progress.<run hash>/1`, and the DHT record.

    peer -> peer   reports: its record     then again whenever it is worth telling, or to show
                                           that it lives, on the same stream
    peer           its own record, once    none while it does not take part yet

The same record lies in the DHT under `<run>/progress`, in the subkey that only its owner can
write, for those who do not know each other yet.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from msgspec import Meta

from averaging import RoundId
from p2p import Message, MessageInvalid, Method, SchemaValidator, decode_untrusted
from training.progress.batch_schedule import NUMBER_MAX
from training.progress.drift import SKETCH_SIZE
from training.progress.position import PeerRecord, Position, Role

MAJOR = 1

HASH_SIZE_BYTES = 32
RECORD_BYTES_MAX = 4096
ADDRESSES_MAX = 16
LIFE_S_MAX = 600.0
BATCH_MEMORY_MAX = 8
# Squares of differences are still finite.
_SKETCHED_MAX = 1e150

Hash = Annotated[bytes, Meta(min_length=HASH_SIZE_BYTES, max_length=HASH_SIZE_BYTES)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[int, Meta(ge=0, le=2**62)]
BatchMemory = Annotated[
    tuple[Annotated[float, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)], ...],
    Meta(max_length=BATCH_MEMORY_MAX),
]
SketchOnWire = Annotated[
    tuple[Annotated[float, Meta(ge=-_SKETCHED_MAX, le=_SKETCHED_MAX)], ...],
    Meta(max_length=SKETCH_SIZE),
]


class Progress(Message, frozen=True):
    """What a peer says of itself."""

    round_number: Number
    parent: Hash
    step: Count
    samples_committed: Count
    spec_hash: Hash
    samples: Count
    samples_per_s: Annotated[float, Meta(ge=0, le=1e12)]
    role: Role
    holds_state: bool
    waits: bool
    period_s: Annotated[float, Meta(ge=0, le=1e9)]
    sequence: Number
    life_s: Annotated[float, Meta(gt=0, le=LIFE_S_MAX)]
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=ADDRESSES_MAX)
    ]
    batch_memory: BatchMemory = ()
    """What the schedule of batches remembers there."""
    sketch: SketchOnWire = ()
    """Of the parameters there; empty where that is unknown, or they are not finite."""


class ProgressAnswer(Message, frozen=True):
    """The callee's own record, if it takes part."""

    record: Progress | None = None


REPORTS = Method(
    "reports",
    Progress,
    ProgressAnswer,
    request_bytes_max=RECORD_BYTES_MAX,
    response_bytes_max=RECORD_BYTES_MAX,
)


def service_name(run: str) -> str:
    """The RPC service of one run; hashed, since the name is the user's text."""
    return f"progress.{hashlib.sha256(run.encode()).hexdigest()[:16]}"


def dht_key(run: str) -> str:
    """Where strangers of a run find each other."""
    return f"{run}/progress"


PROGRESS_VALIDATOR = SchemaValidator(
    key_pattern=rf".*{re.escape(dht_key(''))}", kind=Progress, owned=True
)
"""For DhtConfig.validators: nodes that have it hold no nonsense under the keys of progress."""


def message_of(record: PeerRecord, *, life_s: float, addresses: tuple[str, ...]) -> Progress:
    """A record as it travels."""
    return Progress(
        record.position.round.number,
        record.position.round.parent,
        record.position.step,
        record.position.samples,
        record.spec_hash,
        record.samples,
        record.samples_per_s,
        record.role,
        record.holds_state,
        record.waits,
        record.period_s,
        record.sequence,
        life_s,
        addresses[:ADDRESSES_MAX],
        record.position.batch_memory,
        record.sketch if all(abs(one) <= _SKETCHED_MAX for one in record.sketch) else (),
    )


def record_of(message: Progress) -> PeerRecord:
    """What the message says."""
    return PeerRecord(
        position=Position(
            RoundId(message.round_number, message.parent),
            message.step,
            message.samples_committed,
            message.batch_memory,
        ),
        spec_hash=message.spec_hash,
        samples=message.samples,
        samples_per_s=message.samples_per_s,
        role=message.role,
        holds_state=message.holds_state,
        waits=message.waits,
        period_s=message.period_s,
        sketch=message.sketch,
        sequence=message.sequence,
    )


def decode_record_untrusted(data: bytes) -> Progress:
    """A record from the DHT.

    Raises:
        MessageInvalid: it is none.
    """
    message = decode_untrusted(data, Progress, size_bytes_max=RECORD_BYTES_MAX)
    if message.step > message.round_number:
        raise MessageInvalid("more steps than rounds")
    return message
