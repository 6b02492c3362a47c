"""Whole numbers times a scale: one scale for a frame, or one for each block of elements.

The scale is the largest absolute value over the largest symbol, so nothing is cut off, and a
largest value does not depend on the order in which a device looks, as a deviation would. Frame:
the scales as float32, then the symbols, packed; a symbol is the whole number plus L.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Final

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.compiled import LOOPS
from averaging.codecs.packing import pack, packed_bytes, tile_places, unpack, width_of
from averaging.codecs.tiles import (
    LARGEST,
    NOT_FINITE,
    SCALE_BYTES,
    SMALLEST,
    TILE_ELEMENTS,
    check_size,
    floats_of,
    frame_on,
    largest_of,
    rounded,
    tiles,
)

BLOCK_MIN: Final = 16
"""Smaller blocks spend more on scales than they save."""
_SCANNED_ELEMENTS: Final = 2 * TILE_ELEMENTS
"""So many are looked through twice while they are in a cache, for the largest and the lowest."""


class Uniform(Codec):
    """Rounds each element to the nearest multiple of its scale, ties to even.

    Args:
        largest: L: symbols go from −L to L.
        block: elements that share a scale, a power of two; None: all of the frame.
        loops: make and read frames of whole bytes on a CPU; None: PyTorch does.
    """

    same_everywhere = True

    def __init__(
        self,
        name: str,
        largest: int,
        block: int | None = None,
        *,
        loops: ModuleType | None = LOOPS,
    ) -> None:
        if block is not None and (not BLOCK_MIN <= block <= TILE_ELEMENTS or block & (block - 1)):
            raise ValueError(
                f"a block is a power of two from {BLOCK_MIN} to {TILE_ELEMENTS}, not {block}"
            )
        self.name = name
        self._largest, self._block = largest, block
        self._width = width_of(2 * largest + 1)
        self._loops = loops if self._width == 8 else None
        # L times it is finite, whatever rounding does.
        self._scale_max = rounded(LARGEST / (largest * (1 + 2.0**-20)))

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        del seed
        if self._loops is not None and values.device.type == "cpu":
            encoded = self._encoded_at_once(values, self._loops)
            if encoded is None:
                raise ValueError(NOT_FINITE)
            return encoded[0]
        count = values.numel()
        scales = self._scales_of(values)
        inverses = scales.reciprocal().masked_fill_(scales == 0, 0.0)
        frame = frame_on(values, self.size_limit_bytes(count))
        header = SCALE_BYTES * scales.numel()
        frame[:header].copy_(scales.view(torch.uint8))
        body = frame[header:]
        size = min(count, TILE_ELEMENTS)
        scaled = torch.empty(size, dtype=torch.float32, device=values.device)
        symbols = torch.empty(size, dtype=torch.int8, device=values.device)
        for part, place in tile_places(count, self._width):
            some, whole = _first(scaled, part), _first(symbols, part)
            self._times(values[part], inverses, part.start, some)
            whole.copy_(some.round_())
            if self._width == 8:
                torch.add(whole.view(torch.uint8), self._largest, out=body[place])
            else:
                whole += self._largest
                pack(whole.view(torch.uint8), self._width, body[place])
        return frame.cpu()

    def encode_measured(self, values: torch.Tensor, seed: int) -> tuple[torch.Tensor, float] | None:
        """See Codec."""
        if self._loops is None:
            return super().encode_measured(values, seed)
        return self._encoded_at_once(values, self._loops)

    def encode_keeping_rest(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """See Codec; no frame says more than values can be."""
        if self._loops is None:
            return super().encode_keeping_rest(values, seed)
        encoded = self._encoded_at_once(values, self._loops, keep=True)
        if encoded is None:
            raise ValueError(NOT_FINITE)
        return encoded[0]

    def _encoded_at_once(
        self, values: torch.Tensor, loops: ModuleType, *, keep: bool = False
    ) -> tuple[torch.Tensor, float] | None:
        """A frame by compiled code, and the sum of squares of what it says.

        Args:
            keep: as for encode_int8().
        """
        count = values.numel()
        frame = frame_on(values, self.size_limit_bytes(count))
        square_sum = loops.encode_int8(
            values.numpy(),
            self._block or count,
            self._largest,
            self._scale_max,
            SMALLEST,
            frame.numpy(),
            keep,
        )
        return None if square_sum is None else (frame, square_sum)

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec; a block whose scale is 0 is zeros whatever its symbols."""
        scales, body = self._split(frame, out.numel(), out.device)
        if self._loops is not None and out.device.type == "cpu":
            block = self._block or out.numel()
            known = self._loops.decode_int8(
                scales.numpy(), body.numpy(), block, self._largest, out.numpy()
            )
            if not known:
                raise FrameInvalid(self._too_large())
            return
        room = torch.empty(min(out.numel(), TILE_ELEMENTS), dtype=torch.int8, device=out.device)
        for part, symbols in self._symbols(body, out.numel()):
            whole = _first(room, part)
            torch.sub(symbols, self._largest, out=whole.view(torch.uint8))
            values = out[part]
            values.copy_(whole)
            self._times(values, scales, part.start, values)

    def check(self, frame: torch.Tensor, count: int) -> None:
        """See Codec; values are made of none of the symbols."""
        _, body = self._split(frame, count, frame.device)
        for _ in self._symbols(body, count):
            pass

    def _split(
        self, frame: torch.Tensor, count: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scales of a frame of so many elements, and its symbols, packed."""
        check_size(frame, self.size_limit_bytes(count))
        scale_count = self._scale_count(count)
        scales = floats_of(frame, scale_count, low=0.0, high=self._scale_max).to(device)
        return scales, frame[SCALE_BYTES * scale_count :].to(device)

    def _symbols(self, body: torch.Tensor, count: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """The symbols of each tile, uint8, to be read before the next.

        Raises:
            FrameInvalid: one is too large.
        """
        room = torch.empty(min(count, TILE_ELEMENTS), dtype=torch.uint8, device=body.device)
        for part, place in tile_places(count, self._width):
            symbols = body[place]
            if self._width < 8:
                symbols = _first(room, part)
                unpack(body[place], self._width, symbols)
            if int(symbols.max()) > 2 * self._largest:
                raise FrameInvalid(self._too_large())
            yield part, symbols

    def _too_large(self) -> str:
        return f"a symbol is beyond {self._largest}"

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return SCALE_BYTES * self._scale_count(count) + packed_bytes(count, self._width)

    def constants(self, count: int) -> Constants:
        """In B3, tight.

        The largest element of a block of m is exact and is at least L in units of the scale; each
        other one errs by at most half a unit, and by no more than itself.
        """
        size = count if self._block is None else min(count, self._block)
        return Constants(b3=1 + (size - 1) / (4 * self._largest**2)).implied()

    def _scale_count(self, count: int) -> int:
        return 1 if self._block is None else -(-count // self._block)

    def _scales_of(self, values: torch.Tensor) -> torch.Tensor:
        """float32, where the values are."""
        if self._block is None:
            parts = (largest_of(values[start:stop]) for start, stop in tiles(values.numel()))
            largest = torch.tensor([max(parts)], dtype=torch.float32, device=values.device)
        else:
            largest = self._largest_of_blocks(values)
        scales = (largest / self._largest).clamp_(max=self._scale_max)
        return scales.masked_fill_(largest < SMALLEST, 0.0)

    def _largest_of_blocks(self, values: torch.Tensor) -> torch.Tensor:
        block, count = self._block, values.numel()
        assert block is not None
        largest = torch.empty(self._scale_count(count), dtype=torch.float32, device=values.device)
        lowest = torch.empty_like(largest)
        rows, rest = divmod(count, block)
        whole = values[: count - rest].view(rows, block)
        for start in range(0, rows, _SCANNED_ELEMENTS // block):
            run = slice(start, min(start + _SCANNED_ELEMENTS // block, rows))
            torch.amax(whole[run], 1, out=largest[run])
            torch.amin(whole[run], 1, out=lowest[run])
        if rest:
            lowest[rows], largest[rows] = torch.aminmax(values[count - rest :])
        torch.maximum(largest, lowest.neg_(), out=largest)
        # Of NaN and others it is NaN.
        if not math.isfinite(largest.max()):
            raise ValueError(NOT_FINITE)
        return largest

    def _times(
        self, values: torch.Tensor, factors: torch.Tensor, start: int, out: torch.Tensor
    ) -> None:
        """Overwrite out with a tile's values times their blocks' factors.

        Args:
            start: where the tile starts.
            out: may be the values themselves.
        """
        if self._block is None:
            torch.mul(values, factors, out=out)
            return
        first, (rows, rest) = start // self._block, divmod(values.numel(), self._block)
        end = values.numel() - rest
        if rows:
            some, room = (values[:end], out[:end]) if rest else (values, out)
            shape = (rows, self._block)
            column = factors[first : first + rows].view(rows, 1)
            torch.mul(some.view(shape), column, out=room.view(shape))
        if rest:
            torch.mul(values[end:], factors[first + rows], out=out[end:])


def _first(room: torch.Tensor, part: slice) -> torch.Tensor:
    """As much of a tile's memory as a part needs."""
    size = part.stop - part.start
    return room if size == room.numel() else room[:size]
