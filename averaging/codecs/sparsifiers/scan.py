"""Passes over a whole vector, on the CPU in tiles that stay in its cache.

Comparisons are exact, so every device finds the same elements.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

from averaging.codecs.compiled import LOOPS
from averaging.codecs.tiles import TILE_ELEMENTS, tiles

Array = np.ndarray[Any, Any]

_STRIDE: Final = 31
"""Of the sample. Odd, since the rows of weights often have lengths that are powers of two."""
_ROW_STRIDE: Final = 9
"""Of the samples of rows: odd too, and less, since a row of 4096 would leave few to judge by."""


def above(values: torch.Tensor, threshold: float, mask: torch.Tensor) -> int:
    """Overwrite mask, bool, with |value| > threshold, and return how many are.

    Numpy does it on the CPU: several times as fast as PyTorch, and it lets other threads run too.
    """
    # NaN compares false; beyond float32 is infinity, and nothing is above.
    with np.errstate(over="ignore"):
        limit = np.float32(threshold)
    if not values.is_cpu:
        torch.gt(values.abs(), float(limit), out=mask)
        return int(mask.count_nonzero())
    numbers, marks = values.numpy(), mask.numpy()
    magnitudes = np.empty(min(TILE_ELEMENTS, numbers.size), np.float32)
    count = 0
    for start, stop in tiles(numbers.size):
        sizes, found = magnitudes[: stop - start], marks[start:stop]
        np.greater(np.abs(numbers[start:stop], out=sizes), limit, out=found)
        count += int(np.count_nonzero(found))
    return count


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Where a 1-D mask is true: int64, rising, on its device."""
    if mask.is_cpu:
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


def square_sum(values: torch.Tensor, center: float = 0.0) -> float:
    """‖values − center‖², in float64 over tiles in float32; infinite where those overflow."""
    total = 0.0
    for tile in torch.split(values, TILE_ELEMENTS) if values.is_cpu else (values,):
        moved = tile - center if center else tile
        total += float(moved.dot(moved))
    return total


def kth_largest(magnitudes_RC: torch.Tensor, rank: int) -> torch.Tensor:
    """The number of this rank, from 1, in each row: shape (R,)."""
    if magnitudes_RC.is_cpu:
        return torch.from_numpy(_kth_largest(_narrowed(magnitudes_RC.numpy(), rank), rank))
    return magnitudes_RC.topk(rank, dim=1, sorted=False).values.amin(dim=1)


def _kth_largest(magnitudes_RC: Array, rank: int) -> Array:
    place = magnitudes_RC.shape[1] - rank
    limit_R: Array = np.partition(magnitudes_RC, place, axis=1)[:, place].copy()
    return limit_R


def _narrowed(magnitudes_RC: Array, rank: int) -> Array:
    """What is left of rows without most that are too small for the rank, in fewer columns.

    A sample of each row tells what is. Where it misleads, the rows stay as they are.
    """
    rows, columns = magnitudes_RC.shape
    sample_rank = _sample_rank(rank, _ROW_STRIDE)
    # If more than a quarter stayed, ranking all would be no slower.
    if 4 * sample_rank * _ROW_STRIDE > columns:
        return magnitudes_RC
    limit_R1 = _kth_largest(magnitudes_RC[:, ::_ROW_STRIDE], sample_rank)[:, None]
    places = np.flatnonzero(magnitudes_RC >= limit_R1)
    row_of = places // columns
    counts_R = np.bincount(row_of, minlength=rows)
    if counts_R.min() < rank:
        return magnitudes_RC
    column_of = np.arange(places.size) - (np.cumsum(counts_R) - counts_R)[row_of]
    narrow_RC: Array = np.zeros((rows, int(counts_R.max())), np.float32)
    narrow_RC[row_of, column_of] = magnitudes_RC.ravel()[places]
    return narrow_RC


def _sample_rank(rank: int, stride: int) -> int:
    """The rank in a sample that is almost surely no higher than this one in all."""
    expected = rank / stride
    # Four standard deviations of how many of those wanted are in the sample.
    return int(expected + 4 * expected**0.5 + 4)


def largest_of_rows(magnitudes_RC: torch.Tensor, kept: int) -> torch.Tensor:
    """The mask, shape (R, C), of so many of each row: the largest, of equal ones the first.

    Zeros are never among them, so a row may have fewer.
    """
    limit_R1 = kth_largest(magnitudes_RC, kept)[:, None]
    mask_RC = magnitudes_RC >= limit_R1
    if int(mask_RC.count_nonzero()) > kept * len(magnitudes_RC):
        mask_RC = magnitudes_RC > limit_R1
        equal_RC = magnitudes_RC == limit_R1
        room_R1 = kept - mask_RC.sum(dim=1, keepdim=True)
        mask_RC |= equal_RC & (equal_RC.cumsum(dim=1) <= room_R1)
    if float(limit_R1.amin()) == 0:
        mask_RC &= magnitudes_RC > 0
    return mask_RC


def largest(values: torch.Tensor, kept: int) -> torch.Tensor:
    """Where so many of the largest magnitudes stand, exactly: int64, rising.

    A sample tells a threshold that leaves few more than are wanted, and only those are ranked.
    Where it misleads, all are ranked: what is found is always the same.
    """
    candidates = None
    if kept < values.numel() // 8:
        rank = _sample_rank(kept, _STRIDE)
        sample = values[::_STRIDE].abs()
        if rank < sample.numel():
            limit = kth_largest(sample[None], rank)[0].numpy(force=True)
            mask = torch.empty_like(values, dtype=torch.bool)
            if above(values, float(np.nextafter(limit, np.float32(-1))), mask) >= kept:
                candidates = positions_of(mask)
    if candidates is None:
        return positions_of(largest_of_rows(values.abs()[None], kept)[0])
    mask = largest_of_rows(values[candidates].abs()[None], kept)[0]
    return candidates[mask]


def largest_of_blocks(
    values: torch.Tensor,
    block: int,
    kept: int,
    kept_last: int,
    *,
    loops: ModuleType | None = LOOPS,
) -> torch.Tensor:
    """Where so many of the largest of each block stand, and of a shorter last one: int64, rising.

    Of equal ones the first are found, and zeros never.

    Args:
        block: in elements.
        kept_last: of the last block, where it is shorter; else 0.
        loops: find them on a CPU; None: numpy does.
    """
    rows = values.numel() // block
    if loops is not None and values.is_cpu:
        positions = torch.empty(rows * kept + kept_last, dtype=torch.int64, device="cpu")
        found = loops.largest_of_blocks(values.numpy(), block, kept, kept_last, positions.numpy())
        return positions[:found]
    mask = torch.empty_like(values, dtype=torch.bool)
    step = max(1, TILE_ELEMENTS // block) if values.is_cpu else max(1, rows)
    for row in range(0, rows, step):
        part = slice(row * block, min(row + step, rows) * block)
        found = largest_of_rows(values[part].view(-1, block).abs(), kept)
        mask[part] = found.flatten()
    if rows * block < values.numel():
        last = values[rows * block :]
        mask[rows * block :] = largest_of_rows(last.abs()[None], kept_last)[0]
    return positions_of(mask)
