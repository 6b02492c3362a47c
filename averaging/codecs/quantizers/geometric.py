"""Rounding to a geometric grid: zero, and a top divided by a base again and again.

The grid of base b with s levels below a top t is 0, t·b^(1−s), …, t/b, t, and the same below
zero. An element between two of its points becomes one of them: by chance, so that its mean is
right, or the nearer one. The top is a norm of the vector, so that nothing lies beyond it. The
general rounding of the paper has a grid without end; below the last level here an element is
rounded between that and zero, and what this costs is in the constants.

Frame: the top as float32, then the symbols, packed; a symbol is the level, negative for negative
elements, plus s. Who decodes divides the top by the base again and again in float64, and rounds
each level to float32: no power is taken, so that all machines have the same levels.

Source: Beznosikov et al., "On Biased Compression for Distributed Learning", section 2.2; natural
compression and dithering: Horváth et al., "Natural Compression for Distributed Deep Learning",
2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Final, Literal

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.compiled import LOOPS
from averaging.codecs.draws import DRAW_BITS, draws, hashes_of_places, key_of_tile
from averaging.codecs.packing import pack, packed_bytes, tile_places, unpack, width_of
from averaging.codecs.quantizers.sums import sum_of
from averaging.codecs.tiles import (
    LARGEST,
    SCALE_BYTES,
    TILE_ELEMENTS,
    check_size,
    float_bytes,
    floats_of,
    frame_on,
    largest_of,
    rounded_up,
    symbol_rooms,
    tiles,
)

Norm = Literal["1", "2", "inf"]
LEVELS_MAX: Final = 127
"""With signs and zero, 8 bits."""
BASE_MIN, BASE_MAX = 1.05, 256.0
"""Nearer levels than this could be two in one cell; see _Steps."""
_RANGE_LOG2: Final = 126
"""The last level is at least 2**−126 of the top."""
_SPAN: Final = 2.0**26
"""Where the top is moved before levels are found: for every top that there may be, the factor to
it, all levels below it and their inverses are normal float32 numbers."""
_CELL_BITS: Final = 16
_HALF_DRAW: Final = 1 << (DRAW_BITS - 1)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the levels are, and how an element gets to one."""

    base: float
    """b: how many times larger each level is than the one below it."""
    levels: int
    """s: without zero."""
    norm: Norm = "inf"
    """p: which norm of the vector is the top."""
    nearest: bool = False
    """To the nearest point of the grid (biased), instead of by chance (unbiased)."""
    power_top: bool = False
    """The top is the power of two that is not below the norm, so that levels are powers, too."""

    def __post_init__(self) -> None:
        if not BASE_MIN <= self.base <= BASE_MAX:
            raise ValueError(f"a base is from {BASE_MIN} to {BASE_MAX:g}, not {self.base:g}")
        most = levels_within_range(self.base)
        if not 1 <= self.levels <= most:
            raise ValueError(
                f"with base {self.base:g} there can be 1 to {most} levels, not {self.levels}"
            )


def levels_within_range(base: float) -> int:
    """How many levels reach from the top to 2**−126 of it, at most 127."""
    return min(LEVELS_MAX, 1 + math.floor(_RANGE_LOG2 / math.log2(base)))


class Geometric(Codec):
    """Rounds each element to a point of the grid.

    Args:
        loops: find the points on a CPU; None: PyTorch does.
    """

    same_everywhere = True

    def __init__(self, name: str, grid: Grid, *, loops: ModuleType | None = LOOPS) -> None:
        self.name = name
        self._grid = grid
        self._loops = loops
        self._width = width_of(2 * grid.levels + 1)
        # The last level, when the top is at _SPAN.
        self._last = _levels_of(grid, _SPAN)[0]
        # With base 2: the bits of the level below it, and half a draw less.
        exponent = math.frexp(self._last)[1] + 126
        self._below_last = (exponent << DRAW_BITS) - _HALF_DRAW
        self._steps = None if grid.base == 2 else _Steps(grid)

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """See Codec; if the grid's points are taken by chance, the seed decides which."""
        count = values.numel()
        top = self._top_of(values)
        factor = _SPAN / top if top else 0.0
        frame = frame_on(values, self.size_limit_bytes(count))
        frame[:SCALE_BYTES].copy_(float_bytes(top))
        rooms = _Rooms(min(count, TILE_ELEMENTS), values.device)
        for part, place in tile_places(count, self._width):
            rooms.cut(part.stop - part.start)
            if self._loops is not None and values.is_cpu:
                self._find_at_once(values[part], factor, seed, part.start, rooms.symbols)
            else:
                self._find(values[part], factor, seed, part.start, rooms)
            pack(rooms.symbols.view(torch.uint8), self._width, frame[SCALE_BYTES:][place])
        return frame.cpu()

    def _find(
        self, values: torch.Tensor, factor: float, seed: int, start: int, rooms: _Rooms
    ) -> None:
        """Overwrite rooms.symbols with those of a tile.

        Args:
            factor: moves the top to _SPAN.
            start: where the tile starts.
        """
        if not self._grid.nearest:
            draws(seed, start, rooms.draws, rooms.levels)
        torch.mul(values, factor, out=rooms.sizes)
        self._stretch(rooms.sizes.abs_(), rooms.more)
        if self._steps is None:
            self._find_powers_of_two(rooms)
        else:
            self._steps.find(rooms)
        symbols, signs = rooms.symbols, rooms.signs
        symbols.copy_(rooms.levels)
        torch.bitwise_right_shift(values.view(torch.int32), 31, out=rooms.levels)
        signs.copy_(rooms.levels)
        # Where signs is −1 this negates; where it is 0 it does nothing.
        symbols.bitwise_xor_(signs).sub_(signs).add_(self._grid.levels)

    def _find_at_once(
        self, values: torch.Tensor, factor: float, seed: int, start: int, symbols: torch.Tensor
    ) -> None:
        """The same by compiled code, on a CPU."""
        assert self._loops is not None
        grid, steps = self._grid, self._steps
        self._loops.round_to_grid(
            values.numpy(),
            factor,
            grid.base,
            self._last,
            grid.levels,
            None if grid.nearest else hashes_of_places(values.device).numpy(),
            key_of_tile(seed, start),
            None if steps is None else steps.table.numpy(),
            None if steps is None else steps.per_gap.numpy(),
            0.0 if steps is None else steps.gap_draws,
            self._below_last,
            symbols.numpy(),
        )

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        count = out.numel()
        check_size(frame, self.size_limit_bytes(count))
        top = float(floats_of(frame, 1, low=0.0, high=LARGEST)[0])
        table = self._values_below(top).to(out.device)
        body = frame[SCALE_BYTES:].to(out.device)
        symbols, indices = symbol_rooms(count, out.device)
        for part, place in tile_places(count, self._width):
            some, index = symbols[: part.stop - part.start], indices[: part.stop - part.start]
            unpack(body[place], self._width, some)
            if int(some.max()) >= table.numel():
                raise FrameInvalid(f"a level is beyond {self._grid.levels}")
            torch.index_select(table, 0, index.copy_(some), out=out[part])

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        return SCALE_BYTES + packed_bytes(count, self._width)

    def constants(self, count: int) -> Constants:
        """U(ζ), or B1, B2 and B3 of nearest rounding, with what the end of the grid costs.

        By chance, ζ is the paper's for exponential dithering. To the nearest, with u the last
        level and the largest element exact, elements below u have at most t = (d − 1)(u / top)²
        times its square: they double at most, or vanish with t/4 at most, and what the paper says
        of the endless grid holds for the others.
        """
        grid = self._grid
        b, last = grid.base, grid.base ** (1 - grid.levels)
        if not grid.nearest:
            root = count ** (1 / min(float(grid.norm), 2.0))
            spread = root * last
            return Constants(unbiased=(b + 1 / b + 2) / 4 + spread * min(1.0, spread)).implied()
        below = (count - 1) * last**2
        beta = (2 * b / (b + 1) + 2 * below) / (1 + below)
        gamma = 2 / (b + 1) / (1 + below / 4)
        error = (((b - 1) / (b + 1)) ** 2 + below / 4) / (1 + below / 4)
        return Constants(b2=(gamma, beta), b3=1 / (1 - error)).implied()

    def _top_of(self, values: torch.Tensor) -> float:
        """A float32 of at least the largest absolute value; 0 where all is to be zero."""
        largest = max(largest_of(values[start:stop]) for start, stop in tiles(values.numel()))
        if not largest:
            return 0.0
        if self._grid.power_top:
            fraction, exponent = math.frexp(largest)
            # 2**128 is no float32: what lies between it and 2**127 is cut off.
            return 2.0 ** min(127, exponent - (fraction == 0.5))
        match self._grid.norm:
            case "1":
                return rounded_up(sum_of(values, torch.Tensor.abs_))
            case "2":
                return rounded_up(math.sqrt(sum_of(values, torch.Tensor.square_)))
            case _:
                return largest

    def _values_below(self, top: float) -> torch.Tensor:
        """What each symbol stands for: shape (2s + 1,), float32."""
        levels = _levels_of(self._grid, top)
        ordered = [-one for one in reversed(levels)] + [0.0] + levels
        return torch.tensor(ordered, dtype=torch.float64, device="cpu").to(torch.float32)

    def _stretch(self, sizes: torch.Tensor, room: torch.Tensor) -> None:
        """Change sizes so that zero, too, is a level with b times the next: the last one, u.

        An x ≥ u becomes bx, one level up; and x < u, so far x/u of the way from zero to u, becomes
        u + (b − 1)x, so far of the way from u to bu. The larger of both is always the right one.
        """
        base = self._grid.base
        torch.mul(sizes, base - 1, out=room).add_(self._last)
        torch.maximum(sizes.mul_(base), room, out=sizes)

    def _find_powers_of_two(self, rooms: _Rooms) -> None:
        """Overwrite rooms.levels with the level of each of rooms.sizes, stretched.

        A float's fraction says how far it is from one power of two to the next; so its bits plus a
        draw of as many bits carry into the exponent with just the chance that is due.
        """
        push = 0 if self._grid.nearest else rooms.draws
        torch.add(rooms.sizes.view(torch.int32), push, out=rooms.levels)
        rooms.levels.sub_(self._below_last).bitwise_right_shift_(DRAW_BITS)
        # A size at the top may have been rounded to just above it.
        rooms.levels.clamp_(max=self._grid.levels)


def _levels_of(grid: Grid, top: float) -> list[float]:
    """The levels above zero, rising."""
    levels = [top]
    for _ in range(grid.levels - 1):
        levels.append(levels[-1] / grid.base)
    return levels[::-1]


class _Rooms:
    """Memory for one tile, used again for the next."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._sizes = torch.empty(count, dtype=torch.float32, device=device)
        self._more = torch.empty(count, dtype=torch.float32, device=device)
        self._draws = torch.empty(count, dtype=torch.int32, device=device)
        self._levels = torch.empty(count, dtype=torch.int32, device=device)
        self._symbols = torch.empty(count, dtype=torch.int8, device=device)
        self._signs = torch.empty(count, dtype=torch.int8, device=device)
        self.cut(count)

    def cut(self, count: int) -> None:
        """From now on a tile has so many elements."""
        self.sizes, self.more = self._sizes[:count], self._more[:count]
        self.draws, self.levels = self._draws[:count], self._levels[:count]
        self.symbols, self.signs = self._symbols[:count], self._signs[:count]


class _Steps:
    """Finds levels of any base by looking them up.

    A cell is all floats that share their upper 16 bits: it spans less than 1 % of its numbers, so
    that at most one edge is in it. Its entry in the table is, times 2**16, how many edges are at or
    below its start, plus what is missing from the edge in it to the cell's end: adding the lower 16
    bits of a float carries where the edge is reached.
    """

    def __init__(self, grid: Grid) -> None:
        self._nearest = grid.nearest
        # 2**DRAW_BITS in units of the gap above a level that is 1.
        self.gap_draws = 2.0**DRAW_BITS / (grid.base - 1)
        # Of stretched sizes: zero is at the first of these, the top at the last.
        points = [*_levels_of(grid, _SPAN), _SPAN * grid.base]
        points_P = torch.tensor(points, dtype=torch.float64, device="cpu")
        middles = points_P[:-1] * ((1 + grid.base) / 2)
        edges_float = (middles if grid.nearest else points_P[1:]).to(torch.float32)
        edges = edges_float.view(torch.int32).to(torch.int64)
        # One cell more: a size at the top may have been rounded to just above it.
        end = int(points_P[-1:].to(torch.float32).view(torch.int32)) >> _CELL_BITS
        starts = torch.arange(end + 3, dtype=torch.int64, device="cpu") << _CELL_BITS
        passed = torch.searchsorted(edges, starts, right=True)
        inside = passed.diff()
        assert int(inside.max()) <= 1
        edge = edges[passed[:-1].clamp(max=edges.numel() - 1)]
        self.table = ((passed[:-1] << _CELL_BITS) + inside * (starts[1:] - edge)).to(torch.int32)
        self.per_gap = (2.0**DRAW_BITS / ((grid.base - 1) * points_P)).to(torch.float32)
        # From the top nothing goes up.
        self.per_gap[-1] = 0

    def find(self, rooms: _Rooms) -> None:
        """Overwrite rooms.levels with the level of each of rooms.sizes, stretched; change those."""
        device, levels, bits = rooms.sizes.device, rooms.levels, rooms.sizes.view(torch.int32)
        cells = torch.bitwise_right_shift(bits, _CELL_BITS, out=rooms.more.view(torch.int32))
        torch.index_select(self.table.to(device), 0, cells, out=levels)
        torch.bitwise_and(bits, (1 << _CELL_BITS) - 1, out=cells)
        levels.add_(cells).bitwise_right_shift_(_CELL_BITS)
        if self._nearest:
            return
        # With p the point below x, the chance to go up is (x / p − 1) / (b − 1).
        torch.index_select(self.per_gap.to(device), 0, levels, out=rooms.more)
        rooms.sizes.mul_(rooms.more).sub_(self.gap_draws)
        # −1 where the draw, from 0 on, is smaller than the chance.
        chances = rooms.more.view(torch.int32).copy_(rooms.sizes)
        rooms.draws.add_(_HALF_DRAW).sub_(chances).bitwise_right_shift_(31)
        levels -= rooms.draws
