"""How SparseLoCo's values travel: the sign, and one of two magnitudes that a block shares."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.packing import packed, packed_bytes, unpacked
from averaging.codecs.quantizers.halves import Half
from averaging.codecs.tiles import check_size

Array = np.ndarray[Any, Any]

_BITS: Final = 2


class TwoBits(Codec):
    """Each element becomes the mean magnitude of those like it in its block, with its sign.

    Blocks are split at their mean. Frame: for each block the mean of the magnitudes up to it and
    the mean of those above, all as `float16-scaled`; then the symbols, packed: 1 for the larger
    one, and 2 for negative.

    Source: SparseLoCo (2025); that magnitudes are split at their mean is our choice.

    Args:
        block: in elements.
    """

    same_everywhere = True

    def __init__(self, block: int) -> None:
        self.name = f"two-bits:{block}"
        self._block = block
        self._means = Half("float16-scaled", torch.float16, scaled=True)

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        """The same for every seed: nothing is drawn."""
        numbers = values.cpu().numpy()
        magnitudes = np.abs(numbers).astype(np.float64)
        blocks, block_count = self._blocks(numbers.size)
        above = magnitudes > _means(blocks, magnitudes, block_count)[blocks]
        means = _means(2 * blocks + above, magnitudes, 2 * block_count).astype(np.float32)
        symbols = above.astype(np.uint8) | (numbers < 0).astype(np.uint8) << 1
        header = self._means.encode(torch.from_numpy(means), seed)
        return torch.cat([header, packed(torch.from_numpy(symbols), _BITS)])

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        """See Codec."""
        count = out.numel()
        check_size(frame, self.size_limit_bytes(count))
        blocks, block_count = self._blocks(count)
        means = torch.empty(2 * block_count, dtype=torch.float32, device="cpu")
        header = self._means.size_limit_bytes(2 * block_count)
        self._means.decode(frame[:header], means)
        if bool((means < 0).any()):
            raise FrameInvalid("a magnitude below 0")
        room = torch.empty(count, dtype=torch.uint8, device="cpu")
        symbols = unpacked(frame[header:], _BITS, room).numpy()
        values = means.numpy()[2 * blocks + (symbols & 1)]
        out.copy_(torch.from_numpy(np.where(symbols >> 1, -values, values)))

    def size_limit_bytes(self, count: int) -> int:
        """Exactly what each frame takes."""
        means = 2 * -(-count // self._block)
        return self._means.size_limit_bytes(means) + packed_bytes(count, _BITS)

    def constants(self, count: int) -> Constants:
        """Those of means, at worst where one element is all there is; rounded as float16 is."""
        least = 1 / min(self._block, count)
        delta = self._means.constants(2 * -(-count // self._block)).b3
        assert delta is not None
        error = math.sqrt(1 - 1 / delta)
        return Constants(
            b1=(least * (1 - error) ** 2, 1 + error),
            b2=(least * (1 - error), 1 + error),
            b3=1 / (least * (1 - error**2)),
        )

    def _blocks(self, count: int) -> tuple[Array, int]:
        """The block of each element, and how many there are."""
        block_count = -(-count // self._block)
        return np.repeat(np.arange(block_count), self._block)[:count], block_count


def _means(groups: Array, numbers: Array, group_count: int) -> Array:
    """The mean of each group's numbers; 0 where it has none."""
    sums = np.bincount(groups, numbers, group_count)
    return sums / np.maximum(np.bincount(groups, minlength=group_count), 1)
