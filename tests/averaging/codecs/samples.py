"""Two plain codecs, for tests of what carries codecs."""

from __future__ import annotations

import math

import torch

from averaging.codecs.codec import Codec, FrameInvalid


class Bytes(Codec):
    """A byte for each value, and a scale in front: lossy, dense, the same everywhere."""

    name = "bytes"
    same_everywhere = True

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        del seed
        scale = (values.abs().max() / 127).reshape(1)
        levels = torch.round(values / scale) if scale > 0 else torch.zeros_like(values)
        return torch.cat([scale.view(torch.uint8), levels.to(torch.int8).view(torch.uint8)])

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        if len(frame) != 4 + len(out):
            raise FrameInvalid("wrong size")
        scale = float(frame[:4].clone().view(torch.float32))
        if not 0 <= scale < math.inf:
            raise FrameInvalid("impossible scale")
        out.copy_(frame[4:].view(torch.int8).float() * scale)

    def size_limit_bytes(self, count: int) -> int:
        return 4 + count


class Largest(Codec):
    """The largest few values and their places: sparse."""

    same_everywhere = True

    def __init__(self, share: float) -> None:
        self._share = share
        self.name = f"largest:{share:g}"

    def _kept(self, count: int) -> int:
        return max(1, int(count * self._share))

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        del seed
        places = values.abs().topk(self._kept(len(values))).indices.sort().values
        return torch.cat(
            [places.to(torch.int32).view(torch.uint8), values[places].view(torch.uint8)]
        )

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        kept = self._kept(len(out))
        if len(frame) != 8 * kept:
            raise FrameInvalid("wrong size")
        places = frame[: 4 * kept].clone().view(torch.int32).long()
        if not (int(places[0]) >= 0 and int(places[-1]) < len(out)):
            raise FrameInvalid("places out of range")
        if not bool((places[1:] > places[:-1]).all()):
            raise FrameInvalid("places out of order")
        values = frame[4 * kept :].clone().view(torch.float32)
        if not bool(values.isfinite().all()):
            raise FrameInvalid("a value is no number")
        out.zero_()
        out[places] = values

    def size_limit_bytes(self, count: int) -> int:
        return 8 * self._kept(count)
