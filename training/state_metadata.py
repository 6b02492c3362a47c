"""What travels beside the arrays of a snapshot: where in the run it was taken."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from averaging import RoundId
from p2p import Message, MessageInvalid, decode_untrusted, encode
from training.model_state import Scalars
from training.progress import Position

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

    @property
    def position(self) -> Position:
        """Where in the run the state was taken."""
        return Position(RoundId(self.round_number, self.parent), self.step, self.samples)


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
