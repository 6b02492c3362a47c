"""DeMo's codec: the largest coefficients of a cosine transform of each block."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final, final

import numpy as np
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.sparsifiers.frame import frame_size_limit_bytes, read_frame, write_frame
from averaging.codecs.sparsifiers.sparse import largest_by_block, sent_by_block
from averaging.codecs.tiles import TILE_ELEMENTS, tiles

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
    """Sends of each block of 4096 elements the largest coefficients of its 64 transforms of 64.

    The flat vector has no rows and columns, so transforms are of one dimension, where DeMo's are of
    64 × 64 pieces of matrices. A shorter last one is filled up with zeros. Decoding multiplies
    matrices, which machines round differently: a frame may not carry results.

    Source: B. Peng, J. Quesnelle and D. Kingma, "DeMo: Decoupled Momentum Optimization", 2024.
    """

    same_everywhere = False

    def __init__(self, name: str, density: Fraction, values: Codec) -> None:
        self.name = name
        self._density = density
        self._values = values
        self._cosines_WP = cosines()

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        count = values.numel()
        coefficients = values.new_empty(_filled_up(count))
        cosines_PW = self._cosines_WP.T.to(values.device)
        room = values.new_empty(min(len(coefficients), TILE_ELEMENTS))
        for start, stop in tiles(count):
            some = room[: _filled_up(stop - start)]
            torch.clamp(values[start:stop], -_LARGEST, _LARGEST, out=some[: stop - start])
            some[stop - start :] = 0
            made = coefficients[start : start + len(some)]
            torch.matmul(some.view(-1, _WAVES), cosines_PW, out=made.view(-1, _WAVES))
        return write_frame(
            coefficients, largest_by_block(coefficients, self._density), self._values, seed
        )

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        count = out.numel()
        coefficients = out.new_empty(_filled_up(count))
        read_frame(frame, coefficients, self._values, self._sent(count))
        cosines_WP = self._cosines_WP.to(out.device)
        for start, stop in tiles(count):
            some = coefficients[start : start + _filled_up(stop - start)]
            waves_BW = some.clamp_(-_LARGEST, _LARGEST).view(-1, _WAVES)
            if len(some) > stop - start:
                out[start:stop] = (waves_BW @ cosines_WP).flatten()[: stop - start]
            else:
                torch.matmul(waves_BW, cosines_WP, out=out[start:stop].view(-1, _WAVES))

    def size_limit_bytes(self, count: int) -> int:
        return frame_size_limit_bytes(_filled_up(count), self._sent(count), self._values)

    def constants(self, count: int) -> Constants:
        """Those of Top-k, up to the rounding of the transforms, of some 2**-20."""
        kept = self._values.constants(self._sent(count)).of_kept(float(self._density))
        if count % _WAVES and kept.b2 is not None:
            # What would stand behind the end is cut off, so that ‖C(x)‖ ≥ ⟨C(x), x⟩ / ‖x‖ is all.
            return replace(kept, b1=(kept.b2[0] ** 2, kept.b2[1]))
        return kept

    def _sent(self, count: int) -> int:
        return sent_by_block(self._density, _filled_up(count))


def _filled_up(count: int) -> int:
    """So many elements with zeros up to a whole transform."""
    return count + -count % _WAVES
