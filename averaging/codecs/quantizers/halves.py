"""Floating-point numbers of 16 bits: rounded to the nearest, ties to even, by PyTorch's casts."""

from __future__ import annotations

import math

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.tiles import (
    LARGEST,
    SCALE_BYTES,
    SMALLEST,
    TILE_ELEMENTS,
    check_size,
    float_bytes,
    floats_of,
    frame_on,
    largest_of,
    tiles,
)

_TILE_ELEMENTS = 2 * TILE_ELEMENTS
"""Two calls for each tile are so little work that larger ones are faster."""
_BITS = {torch.float16: 10, torch.bfloat16: 7}
"""Of the fraction."""
_TOP_EXPONENT = 14
"""The largest value is scaled to between 2**14 and 2**15: under float16's end at 65504, and as
far as can be from the subnormal numbers below 2**-14."""
_BELOW_TOP = 2.0**15 - 2.0**4
"""The last float16 below it, for when float32 ends there: nothing may be rounded to 2**128."""


class Half(Codec):
    """A cast. What float16 cannot hold is cut off at 65504, so that all that travels is finite.

    Args:
        dtype: float16 or bfloat16.
        scaled: multiply by a power of two first, one for each frame; exact, and undone exactly.
    """

    same_everywhere = True

    def __init__(self, name: str, dtype: torch.dtype, *, scaled: bool = False) -> None:
        self.name = name
        self._dtype, self._scaled = dtype, scaled
        self._header = SCALE_BYTES if scaled else 0
        self._end = float(torch.finfo(dtype).max)

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        del seed
        count = values.numel()
        frame = frame_on(values, self.size_limit_bytes(count))
        factor, end = 1.0, self._end
        if self._scaled:
            largest = max(largest_of(values[start:stop]) for start, stop in tiles(count))
            scale = 2.0 ** (math.frexp(largest)[1] - 1 - _TOP_EXPONENT) if largest else 0.0
            factor = 1 / scale if scale else 0.0
            if scale * 2.0 ** (_TOP_EXPONENT + 1) > LARGEST:
                end = _BELOW_TOP
            frame[: self._header].copy_(float_bytes(scale))
        halves = frame[self._header :].view(self._dtype)
        size = min(count, _TILE_ELEMENTS)
        room = torch.empty(size, dtype=torch.float32, device=values.device)
        for start, stop in tiles(count, _TILE_ELEMENTS):
            some = room[: stop - start]
            if self._scaled:
                torch.mul(values[start:stop], factor, out=some).clamp_(-end, end)
            else:
                torch.clamp(values[start:stop], -end, end, out=some)
            halves[start:stop].copy_(some)
        return frame.cpu()

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        count = out.numel()
        check_size(frame, self.size_limit_bytes(count))
        scale = 1.0
        if self._scaled:
            scale = float(floats_of(frame, 1, low=0.0, high=LARGEST)[0])
        body = frame[self._header :]
        if body.storage_offset() % 2:
            body = body.clone()
        halves = body.view(self._dtype).to(out.device)
        for start, stop in tiles(count, _TILE_ELEMENTS):
            values = out[start:stop]
            values.copy_(halves[start:stop])
            if self._scaled:
                values.mul_(scale)
            low, high = torch.aminmax(values)
            # Of NaN, both are NaN.
            if not (float(low) >= -LARGEST and float(high) <= LARGEST):
                raise FrameInvalid("a value is not finite")

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return self._header + 2 * count

    def constants(self, count: int) -> Constants:
        """By ε, the largest relative error of rounding, 1 / (2**(p + 1) + 1).

        bfloat16 has float32's range, and scaling gives float16 enough of it: what is subnormal
        errs by at most 2**-25, and the largest is at least 2**14. Plain float16 is in no class: a
        vector of small numbers becomes zero.
        """
        if self._dtype == torch.float16 and not self._scaled:
            return Constants()
        error = (1 / (2 ** (_BITS[self._dtype] + 1) + 1)) ** 2
        if self._scaled:
            error += (count - 1) * 2.0 ** (2 * (-25 - _TOP_EXPONENT))
        else:
            # Below bfloat16's normal numbers, beside a largest element of at least SMALLEST.
            error += (count - 1) * (2.0**-134 / SMALLEST) ** 2
        root = math.sqrt(error)
        # ‖C(x) − x‖ ≤ ε‖x‖, with an ε so small, says more than the classes that follow from B3.
        beta = 1 + root / math.sqrt(1 - error)
        return Constants(b1=((1 - root) ** 2, beta), b2=(1 - root, beta), b3=1 / (1 - error))
