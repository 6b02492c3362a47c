"""One bit for each element, its sign, and one or two numbers that stand for all of them."""

from __future__ import annotations

from typing import Final

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.quantizers.packing import pack, packed_bytes, tile_places, unpack
from averaging.codecs.quantizers.sums import sum_of
from averaging.codecs.quantizers.tiles import (
    LARGEST,
    SCALE_BYTES,
    check_size,
    float_bytes,
    floats_of,
    frame_on,
    largest_of,
    rounded,
    symbol_rooms,
    tiles,
)

_SIGN_BIT: Final = 31


class Signs(Codec):
    """Each element becomes the mean of those with its sign, or plus or minus the mean size.

    Both are projections, so E⟨C(x), x⟩ = E‖C(x)‖². Frame: the mean size, or the mean of the
    positive and that of the negative ones, as float32; then the signs, packed, 1 for negative.

    Source: two means: Seide et al., "1-Bit Stochastic Gradient Descent", 2014. Mean size:
    Bernstein et al., "signSGD", 2018, and Beznosikov et al., section 2.2 (scaled sign).

    Args:
        two_means: a mean for each sign, which is closer where positive and negative differ.
    """

    same_everywhere = True

    def __init__(self, name: str, *, two_means: bool) -> None:
        self.name = name
        self._two_means = two_means
        self._header = SCALE_BYTES * (2 if two_means else 1)

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        del seed
        count = values.numel()
        frame = frame_on(values, self.size_limit_bytes(count))
        symbols, bits = symbol_rooms(count, values.device)
        negative_count = 0
        for part, place in tile_places(count, 1):
            some, symbol = bits[: part.stop - part.start], symbols[: part.stop - part.start]
            torch.bitwise_right_shift(values[part].view(torch.int32), _SIGN_BIT, out=some)
            symbol.copy_(some)
            symbol &= 1
            negative_count += int(symbol.sum())
            pack(symbol, 1, frame[self._header :][place])
        frame[: self._header].copy_(float_bytes(*self._means(values, negative_count)))
        return frame.cpu()

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        count = out.numel()
        check_size(frame, self.size_limit_bytes(count))
        low = -LARGEST if self._two_means else 0.0
        scales = floats_of(frame, self._header // SCALE_BYTES, low=low, high=LARGEST)
        table = (scales if self._two_means else torch.cat([scales, -scales])).to(out.device)
        body = frame[self._header :].to(out.device)
        symbols, indices = symbol_rooms(count, out.device)
        for part, place in tile_places(count, 1):
            some, index = symbols[: part.stop - part.start], indices[: part.stop - part.start]
            unpack(body[place], 1, some)
            torch.index_select(table, 0, index.copy_(some), out=out[part])

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return self._header + packed_bytes(count, 1)

    def constants(self, count: int) -> Constants:
        """In B1, B2 and B3, tight where one element is all there is.

        ‖C(x)‖² = ‖x‖₁² / d ≥ ‖x‖² / d; with two means the same holds for each sign's elements.
        """
        return Constants(b1=(1 / count, 1.0), b2=(1 / count, 1.0), b3=float(count))

    def _means(self, values: torch.Tensor, negative_count: int) -> tuple[float, ...]:
        count = values.numel()
        if not max(largest_of(values[start:stop]) for start, stop in tiles(count)):
            return (0.0, 0.0) if self._two_means else (0.0,)
        if not self._two_means:
            return (rounded(sum_of(values, torch.Tensor.abs_) / count),)
        above = sum_of(values, lambda part: part.clamp_(min=0))
        below = -sum_of(values, lambda part: part.clamp_(max=0))
        return (
            rounded(above / max(1, count - negative_count)),
            -rounded(below / max(1, negative_count)),
        )
