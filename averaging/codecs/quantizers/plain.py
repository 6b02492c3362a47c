"""Numbers as they are: what a sparse codec sends where values must not change."""

from __future__ import annotations

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.tiles import LARGEST, SCALE_BYTES, check_size, floats_of


class Plain(Codec):
    """float32, little endian."""

    name = "float32"
    same_everywhere = True

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        del seed
        return values.view(torch.uint8).to("cpu", copy=True)

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        count = out.numel()
        check_size(frame, self.size_limit_bytes(count))
        out.copy_(floats_of(frame, count, low=-LARGEST, high=LARGEST))

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return SCALE_BYTES * count

    def constants(self, count: int) -> Constants:
        """The best that there are."""
        del count
        return Constants(unbiased=1.0, b1=(1.0, 1.0), b2=(1.0, 1.0), b3=1.0)
