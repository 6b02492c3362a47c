"""What travels beside the arrays of a snapshot: where in the run it was taken."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from averaging import RoundId
from p2p import Message, MessageInvalid, decode_untrusted, encode
from training.model_state import Scalars
from training.progress import Position
from training.progress.schema import BatchMemory

METADATA_BYTES_MAX = 1 << 20
_HASH_SIZE_BYTES = 32

Count = Annotated[int, Meta(ge=0, le=2**53)]
Name = Annotated[str, Meta(max_length=512)]
Key = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=256)]


class StateMetadata(Message, frozen=True):
    """The position of a state, and the numbers that the optimizer keeps beside tensors."""

    round_number: Annotated[int, Meta(ge=0, le=2**62)]
    parent: Annotated[bytes, Meta(min_length=_HASH_SIZE_BYTES, max_length=_HASH_SIZE_BYTES)]
    step: Count
    samples: Count
    equalized: bool
    scalars: Annotated[
        tuple[tuple[Name, Key, bool | int | float | Text | None], ...], Meta(max_length=65_536)
    ]
    batch_memory: BatchMemory = ()
    """What the schedule of batches remembers."""

    @property
    def position(self) -> Position:
        """Where in the run the state was taken."""
        parent = RoundId(self.round_number, self.parent)
        return Position(parent, self.step, self.samples, self.batch_memory)


def encode_metadata(position: Position, *, equalized: bool, scalars: Scalars) -> bytes:
    """The metadata of a snapshot.

    Args:
        equalized: whether the last round averaged the state, so that all hold the same bits.
    """
    return encode(
        StateMetadata(
            position.round.number,
            position.round.parent,
            position.step,
            position.samples,
            equalized,
            scalars,
            position.batch_memory,
        )
    )


def decode_metadata_untrusted(data: bytes, *, version: int) -> StateMetadata:
    """Decode and check metadata from a donor.

    Raises:
        MessageInvalid: it is none, or belongs to another version.
    """
    metadata = decode_untrusted(data, StateMetadata, size_bytes_max=METADATA_BYTES_MAX)
    if metadata.round_number != version or metadata.step > metadata.round_number:
        raise MessageInvalid("the metadata does not fit the snapshot's version")
    return metadata


def position_to_dict(position: Position) -> dict[str, Any]:
    """The position as a checkpoint holds it."""
    return {
        "round": position.round.number,
        "parent": position.round.parent.hex(),
        "step": position.step,
        "samples": position.samples,
        "batch_memory": list(position.batch_memory),
    }


def position_from_dict(saved: dict[str, Any]) -> Position:
    """What position_to_dict() was given; checkpoints of older versions lack the memory."""
    return Position(
        RoundId(saved["round"], bytes.fromhex(saved["parent"])),
        saved["step"],
        saved["samples"],
        tuple(saved.get("batch_memory", ())),
    )
