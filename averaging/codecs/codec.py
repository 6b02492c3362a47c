"""What every codec does: a run of a vector to fewer bytes, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from averaging.codecs.classes import Constants
from averaging.robust.squares import float32_square_sum


class FrameInvalid(ValueError):
    """The bytes are not what this codec writes for so many elements."""


class Codec(ABC):
    """Turns runs of a vector into frames of bytes; pure, so it may run in any thread.

    It keeps nothing from one call to the next: what an encoding lost is carried on by error
    feedback (`averaging.codecs.feedback`), which knows who was included.
    """

    name: str
    """How configuration, commands and groups call it, with its numbers: topk:0.01."""

    same_everywhere: bool
    """A frame is decoded to the same bits on every machine and device: it may carry results."""

    @abstractmethod
    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The frame of these values; the same one again for the same values and seed.

        Args:
            values: float32, 1-D, contiguous, finite, of at least one element, on any device.
            seed: from 0 to 2**63 - 1, for codecs that draw; who needs it to decode reads it
                from the frame.

        Returns:
            uint8, 1-D, contiguous, on the CPU.
        """

    @abstractmethod
    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """Overwrite out with what the frame says.

        The frame may be from a liar: its size, counts, indices (in range, rising) and scales
        (finite) are checked before anything is allocated, and nothing larger than out ever is.

        Args:
            frame: uint8, 1-D, contiguous, on the CPU.
            out: float32, 1-D, contiguous, of as many elements as were encoded, on any device.

        Raises:
            FrameInvalid: it is no such frame; out may be partly written.
        """

    def encode_measured(self, values: torch.Tensor, seed: int) -> tuple[torch.Tensor, float] | None:
        """The frame of these values, and the sum of squares of what it says, to four digits.

        A codec may know that without decoding it. None where a value is not finite.

        Args:
            values, seed: as for encode(), but on the CPU, and they need not be finite.
        """
        if not math.isfinite(float32_square_sum(values.numpy())):
            return None
        frame = self.encode(values, seed)
        said = torch.empty_like(values)
        self.decode(frame, said)
        return frame, float32_square_sum(said.numpy())

    def encode_keeping_rest(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The frame of these values, which are overwritten with what it does not say of them.

        Args:
            values, seed: as for encode(), on the CPU.
        """
        frame = self.encode(values, seed)
        said = torch.empty_like(values)
        self.decode(frame, said)
        # A codec that cannot hold a value may make it infinite; that is no debt.
        values.sub_(said).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return frame

    def check(self, frame: torch.Tensor, count: int) -> None:
        """Raise FrameInvalid unless decode() makes so many elements of the frame.

        A codec may know that without decoding it.

        Args:
            frame: as for decode().
        """
        self.decode(frame, torch.empty(count, dtype=torch.float32))

    @abstractmethod
    def size_limit_bytes(self, count: int) -> int:
        """What a frame of so many elements takes at most."""

    def constants(self, count: int) -> Constants:
        """The classes of compressors that it belongs to, for vectors of so many elements."""
        del count
        return Constants()
