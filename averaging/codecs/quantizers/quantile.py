"""A table of 256 values, each the mean of about as many elements, and 8 bits for each element."""

from __future__ import annotations

from typing import Final

import torch

from averaging.codecs.codec import Codec
from averaging.codecs.quantizers.tiles import (
    LARGEST,
    SCALE_BYTES,
    TILE_ELEMENTS,
    check_size,
    floats_of,
    frame_on,
    largest_of,
    symbol_rooms,
    tiles,
)

BINS: Final = 256
_CELL_BITS: Final = 15
_CELLS: Final = 1 << _CELL_BITS
"""A cell is all floats that share their upper 15 bits: sign, exponent, 6 bits of the fraction. With
one bit more, bins are no closer, and the tables take longer than a small frame's elements."""
_COUNTED: Final = 16 * TILE_ELEMENTS
"""Elements that are counted at once: each time costs as much as reading thousands."""


class Quantile(Codec):
    """Cuts the sorted elements in 256 bins of about one size, and sends each bin's mean.

    Bin edges are edges of cells, so that a table of all cells finds an element's bin: it
    takes no sorting and no search. A cell with more elements than a bin is a bin.
    Frame: the table as float32, then the bins' numbers.

    It is in no class: what a bin holds depends on the data alone. Everything happens on the
    CPU, so that a GPU's sums in other orders cannot give other means.
    """

    same_everywhere = True

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        del seed
        values, count = values.cpu(), values.numel()
        counts = torch.zeros(_CELLS, dtype=torch.int64, device="cpu")
        for start in range(0, count, _COUNTED):
            some = values[start : start + _COUNTED]
            largest_of(some)  # finite, or it raises
            counts += torch.bincount(_cells_of(some), minlength=_CELLS)
        bins = _bins_of(counts)
        frame = frame_on(values, self.size_limit_bytes(count))
        body = frame[SCALE_BYTES * BINS :]
        sums = torch.zeros(BINS, dtype=torch.float64, device="cpu")
        for start, stop in tiles(count):
            some = values[start:stop]
            chosen = torch.index_select(bins, 0, _cells_of(some))
            sums += torch.bincount(chosen, weights=some.to(torch.float64), minlength=BINS)
            body[start:stop].copy_(chosen)
        sizes = torch.zeros(BINS, dtype=torch.int64, device="cpu").index_add_(0, bins, counts)
        means = (sums / sizes.clamp(min=1)).to(torch.float32)
        frame[: SCALE_BYTES * BINS].copy_(means.view(torch.uint8))
        return frame

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        check_size(frame, self.size_limit_bytes(out.numel()))
        table = floats_of(frame, BINS, low=-LARGEST, high=LARGEST).to(out.device)
        body = frame[SCALE_BYTES * BINS :].to(out.device)
        _, indices = symbol_rooms(out.numel(), out.device)
        for start, stop in tiles(out.numel()):
            bins = indices[: stop - start].copy_(body[start:stop])
            torch.index_select(table, 0, bins, out=out[start:stop])

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return SCALE_BYTES * BINS + count


def _cells_of(values: torch.Tensor) -> torch.Tensor:
    """The cell of each element, from 0 to 32,767: int32."""
    return (values.view(torch.int32) >> (32 - _CELL_BITS)).bitwise_and_(_CELLS - 1)


def _bins_of(counts: torch.Tensor) -> torch.Tensor:
    """Which bin each cell is in, from how many elements the cells hold: int32."""
    half = _CELLS // 2
    # From the most negative number to the most positive one.
    ordered = torch.cat([counts[half:].flip(0), counts[:half]])
    # Twice where the middle of a cell stands among all elements.
    middles = 2 * ordered.cumsum(0) - ordered
    bins = (middles * BINS // (2 * int(counts.sum()))).clamp_(max=BINS - 1)
    return torch.cat([bins[half:], bins[:half].flip(0)]).to(torch.int32)
