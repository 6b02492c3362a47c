"""DeMo's codec: the largest coefficients of a cosine transform of each tile."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final, final

import numpy as np
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.sparsifiers.frame import frame_size_limit_bytes, read_frame, write_frame
from averaging.codecs.sparsifiers.naming import density_of, fields_of, named, values_named
from averaging.codecs.sparsifiers.sparse import (
    kept_share,
    largest_by_tile,
    tiled_sent,
)
from averaging.codecs.sparsifiers.values import FLOAT16_ERROR

_WAVES: Final = 64
"""Elements that are transformed together. Source: DeMo (2024)."""
_LARGEST: Final = torch.finfo(torch.float32).max / 16
"""Of what is transformed, there and back: sums of 64, weighted with √(2/64), stay finite."""


def cosines() -> torch.Tensor:
    """The orthonormal DCT-II of 64 numbers: float32, (64, 64), each row a wave."""
    wave_W1, place_P = np.arange(_WAVES)[:, None], np.arange(_WAVES)
    matrix_WP = np.cos(np.pi / _WAVES * wave_W1 * (place_P + 0.5)) * np.sqrt(2 / _WAVES)
    matrix_WP[0] *= np.sqrt(0.5)
    return torch.from_numpy(matrix_WP.astype(np.float32))


@final
class DemoCodec(Codec):
    """Sends of each tile of 4096 elements the largest coefficients of its 64 transforms of 64.

    The flat vector has no rows and columns, so transforms are of one dimension, where DeMo's are of
    64 × 64 pieces of matrices. A shorter last one is filled up with zeros. Decoding multiplies
    matrices, which machines round differently: a frame may not carry results.

    Source: B. Peng, J. Quesnelle and D. Kingma, "DeMo: Decoupled Momentum Optimization", 2024.
    """

    same_everywhere = False

    def __init__(self, density: Fraction, values_name: str) -> None:
        self.name = named("demo", density, values_name, "float16")
        self._density = density
        self._coder = values_named(values_name)
        self._error = FLOAT16_ERROR if values_name == "float16" else 0.0
        self._cosines_WP = cosines()

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        padded = values.clamp(-_LARGEST, _LARGEST)
        if values.numel() % _WAVES:
            padded = torch.nn.functional.pad(padded, (0, -values.numel() % _WAVES))
        coefficients = padded.view(-1, _WAVES) @ self._cosines_WP.T.to(values.device)
        flat = coefficients.flatten()
        return write_frame(flat, largest_by_tile(flat, self._density), self._coder, seed)

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        coefficients = out.new_empty(_filled_up(out.numel()))
        read_frame(frame, coefficients, self._coder, self._sent(out.numel()))
        coefficients_BW = coefficients.clamp_(-_LARGEST, _LARGEST).view(-1, _WAVES)
        cosines_WP = self._cosines_WP.to(out.device)
        if out.numel() % _WAVES:
            out.copy_((coefficients_BW @ cosines_WP).flatten()[: out.numel()])
        else:
            torch.matmul(coefficients_BW, cosines_WP, out=out.view(-1, _WAVES))

    def size_limit_bytes(self, count: int) -> int:
        return frame_size_limit_bytes(_filled_up(count), self._sent(count), self._coder)

    def constants(self, count: int) -> Constants:
        """Those of Top-k, up to the rounding of the transforms, of some 2**-20."""
        kept = kept_share(float(self._density), self._error)
        if count % _WAVES:
            # What would stand behind the end is cut off, so that ‖C(x)‖ ≥ ⟨C(x), x⟩ / ‖x‖ is all.
            share = float(self._density) * (1 - self._error)
            return replace(kept, b1=(share**2, 1 + self._error))
        return kept

    def _sent(self, count: int) -> int:
        return tiled_sent(self._density, _filled_up(count))


def _filled_up(count: int) -> int:
    """So many elements with zeros up to a whole transform."""
    return count + -count % _WAVES


def make_demo(detail: str | None) -> Codec:
    """demo:DENSITY[:VALUES], the largest cosine coefficients of each tile of 4096."""
    density, values_name = fields_of(detail, "demo", "DENSITY[:VALUES]", 2)
    return DemoCodec(density_of(density), values_name or "float16")
