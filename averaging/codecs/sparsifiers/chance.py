"""Codecs that send elements picked by chance, whatever they hold or by what they hold."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Final, final

import numpy as np
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.sparsifiers.draws import SEED_MAX, distinct_positions, seed_of, uniforms
from averaging.codecs.sparsifiers.naming import (
    density_of,
    fields_of,
    named,
    sent_of,
    values_named,
)
from averaging.codecs.sparsifiers.sparse import kept_share
from averaging.codecs.sparsifiers.values import FLOAT16_ERROR

_SEED: Final = struct.Struct("<Q")
_ONE: Final = struct.Struct("<If")


@final
class RandomCodec(Codec):
    """Sends k elements that the seed alone picks: so the seed travels, and no positions.

    The frame is the seed, 8 bytes little endian, and the values in the order drawn.

    Args:
        density: k over all elements.
        unbiased: the values are multiplied by d/k, so that their mean over all seeds is right.
        values_name: how values travel. float16 rounds to the nearest, which is a bias of its own.
    """

    same_everywhere = True

    def __init__(self, density: Fraction, *, unbiased: bool, values_name: str) -> None:
        kind, usual = ("rand-k", "float32") if unbiased else ("rand-k-biased", "float16")
        self.name = named(kind, density, values_name, usual)
        self._density = density
        self._unbiased = unbiased
        self._coder = values_named(values_name)
        self._error = FLOAT16_ERROR if values_name == "float16" else 0.0

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        count = values.numel()
        positions = distinct_positions(seed, sent_of(self._density, count), count)
        sent = values[torch.from_numpy(positions).to(values.device)].cpu().numpy()
        if self._unbiased:
            largest = np.finfo(np.float32).max
            scaled = sent.astype(np.float64) * (count / positions.size)
            sent = scaled.clip(-largest, largest).astype(np.float32)
        data = self._coder.encode(sent, positions, count, seed)
        return torch.from_numpy(np.concatenate((np.frombuffer(_SEED.pack(seed), np.uint8), data)))

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        count = out.numel()
        if frame.numel() != self.size_limit_bytes(count):
            raise FrameInvalid(f"{frame.numel()} bytes, not {self.size_limit_bytes(count)}")
        seed = _SEED.unpack(frame[: _SEED.size].numpy().tobytes())[0]
        if seed > SEED_MAX:
            raise FrameInvalid(f"the seed {seed}")
        positions = distinct_positions(seed, sent_of(self._density, count), count)
        values = self._coder.decode(frame[_SEED.size :].numpy(), positions, count)
        out.zero_()
        out[torch.from_numpy(positions).to(out.device)] = torch.from_numpy(values).to(out.device)

    def size_limit_bytes(self, count: int) -> int:
        return _SEED.size + self._coder.size_bytes(sent_of(self._density, count), count)

    def constants(self, count: int) -> Constants:
        share = sent_of(self._density, count) / count
        error = self._error
        if not self._unbiased:
            return kept_share(share, error)
        # E‖C(x) − x‖² is this much below ‖x‖², with the error that leaves the least.
        gain = min(2 * (1 + e) - (1 + e) ** 2 / share for e in (-error, error))
        return Constants(
            unbiased=None if error else 1 / share,
            b1=((1 - error) ** 2 / share, (1 + error) / share),
            b2=(1 - error, (1 + error) / share),
            b3=1 / gain if gain > 0 else None,
        )


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
        sums = values.abs().cumsum(0, dtype=torch.float64)
        target = sums[-1] * float(uniforms(seed_of(seed, 0), np.zeros(1, np.int64))[0])
        # The first element whose sum is above the target, so none that is 0; the first if all are.
        position = int(torch.searchsorted(sums, target, right=True)) % values.numel()
        return torch.frombuffer(
            bytearray(_ONE.pack(position, float(values[position]))), dtype=torch.uint8
        )

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        if frame.numel() != _ONE.size:
            raise FrameInvalid(f"{frame.numel()} bytes, not {_ONE.size}")
        position, value = _ONE.unpack(frame.numpy().tobytes())
        if position >= out.numel() or not np.isfinite(value):
            raise FrameInvalid(f"{value} at {position} of {out.numel()} elements")
        out.zero_()
        out[position] = value

    def size_limit_bytes(self, count: int) -> int:
        del count
        return _ONE.size

    def constants(self, count: int) -> Constants:
        return Constants(b1=(1 / count, 1.0), b2=(1 / count, 1.0), b3=float(count))


def make_rand_k(detail: str | None) -> Codec:
    """rand-k:DENSITY[:VALUES], as many as the density says, by chance, scaled to be unbiased."""
    density, values_name = fields_of(detail, "rand-k", "DENSITY[:VALUES]", 2)
    return RandomCodec(density_of(density), unbiased=True, values_name=values_name or "float32")


def make_rand_k_biased(detail: str | None) -> Codec:
    """rand-k-biased:DENSITY[:VALUES], as many as the density says, by chance, as they are."""
    density, values_name = fields_of(detail, "rand-k-biased", "DENSITY[:VALUES]", 2)
    return RandomCodec(density_of(density), unbiased=False, values_name=values_name or "float16")


def make_adaptive_random(detail: str | None) -> Codec:
    """adaptive-random, one element by its size and chance."""
    if detail is not None:
        raise ValueError(f"adaptive-random has no numbers, not {detail!r}")
    return AdaptiveRandomCodec()
