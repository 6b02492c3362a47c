"""Codecs that send elements picked by chance, whatever they hold or by what they hold."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Final, final

import numpy as np
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.draws import SEED_MAX, distinct_positions, seed_of, uniforms
from averaging.codecs.naming import sent_of
from averaging.codecs.tiles import LARGEST, TILE_ELEMENTS, bytes_of, check_size

_SEED: Final = struct.Struct("<Q")
_ONE: Final = struct.Struct("<If")


@final
class RandomCodec(Codec):
    """Sends k elements that the seed alone picks: so the seed travels, and no positions.

    The frame is the seed, 8 bytes little endian, and a quantizer's of the values as drawn.

    Args:
        density: k over all elements.
        values: how values travel; of a quantizer. One that is not unbiased makes all of it biased.
        unbiased: the values are multiplied by d/k, so that their mean over all seeds is right.
    """

    same_everywhere = True

    def __init__(self, name: str, density: Fraction, values: Codec, *, unbiased: bool) -> None:
        self.name = name
        self._density = density
        self._values = values
        self._unbiased = unbiased

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        positions = self._positions(seed, values)
        sent = values[positions]
        if self._unbiased:
            scaled = sent.double() * (values.numel() / sent.numel())
            sent = scaled.clamp_(-LARGEST, LARGEST).float()
        return torch.cat([bytes_of(_SEED.pack(seed)), self._values.encode(sent, seed)])

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        check_size(frame, self.size_limit_bytes(out.numel()))
        seed = _SEED.unpack(frame[: _SEED.size].numpy().data)[0]
        if seed > SEED_MAX:
            raise FrameInvalid(f"the seed {seed}")
        values = out.new_empty(sent_of(self._density, out.numel()))
        self._values.decode(frame[_SEED.size :], values)
        out.zero_()
        out[self._positions(seed, out)] = values

    def size_limit_bytes(self, count: int) -> int:
        return _SEED.size + self._values.size_limit_bytes(sent_of(self._density, count))

    def constants(self, count: int) -> Constants:
        """Those of how values travel, of a share by chance; the factor d/k makes all larger."""
        sent = sent_of(self._density, count)
        values = self._values.constants(sent)
        if not self._unbiased:
            return values.of_kept(sent / count)
        factor, zeta, b1, b2 = count / sent, values.unbiased, values.b1, values.b2
        return Constants(
            unbiased=None if zeta is None else zeta * factor,
            b1=None if b1 is None else (b1[0] * factor, b1[1] * factor),
            b2=None if b2 is None else (b2[0], b2[1] * factor),
            b3=None if zeta is None or zeta * factor >= 2 else 1 / (2 - zeta * factor),
        )

    def _positions(self, seed: int, values: torch.Tensor) -> torch.Tensor:
        """Which elements the seed picks, in the order drawn: int64, where the values are."""
        count = values.numel()
        positions = distinct_positions(seed, sent_of(self._density, count), count)
        return torch.from_numpy(positions).to(values.device)


@final
class AdaptiveRandomCodec(Codec):
    """Sends one element, picked with the probability |x_i| / ‖x‖₁, as it is.

    The frame is its position and its value, 4 bytes each, little endian. It is a compressor to
    study: the densities that training needs come from the others.

    Source: Beznosikov et al., "On Biased Compression for Distributed Learning", section 2.
    """

    name = "adaptive-random"
    same_everywhere = True

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        chance = float(uniforms(seed_of(seed, 0), np.zeros(1, np.int64))[0])
        parts = torch.split(values, TILE_ELEMENTS)
        sums = torch.stack([part.abs().sum(dtype=torch.float64) for part in parts]).cumsum(0)
        target = sums[-1] * chance
        # First the tile, then the element: the first whose sum is above the target, so none that
        # is 0 unless all are.
        tile = min(int(torch.searchsorted(sums, target, right=True)), len(parts) - 1)
        if tile:
            target -= sums[tile - 1]
        within = parts[tile].abs().cumsum(0, dtype=torch.float64)
        # Sums in another order may end a little below the target.
        last = int(torch.searchsorted(within, within[-1]))
        position = min(int(torch.searchsorted(within, target, right=True)), last)
        position += tile * TILE_ELEMENTS
        return bytes_of(_ONE.pack(position, float(values[position])))

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        check_size(frame, _ONE.size)
        position, value = _ONE.unpack(frame.numpy().data)
        if position >= out.numel() or not np.isfinite(value):
            raise FrameInvalid(f"{value} at {position} of {out.numel()} elements")
        out.zero_()
        out[position] = value

    def size_limit_bytes(self, count: int) -> int:
        del count
        return _ONE.size

    def constants(self, count: int) -> Constants:
        return Constants(b1=(1 / count, 1.0), b2=(1 / count, 1.0), b3=float(count))
