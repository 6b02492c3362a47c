"""Codecs that send the elements that some rule picks, with their positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, final

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.naming import sent_of
from averaging.codecs.sparsifiers.frame import frame_size_limit_bytes, read_frame, write_frame
from averaging.codecs.sparsifiers.gaussian import (
    dgc_sampled_above,
    gaussian_as_published,
    gaussian_largest,
    gaussian_sent_max,
    sampled_largest,
)
from averaging.codecs.sparsifiers.scan import largest, largest_of_blocks

BLOCK_ELEMENTS: Final = 4096
"""Of the codecs that choose within blocks. Source: SparseLoCo (2025); DeMo (2024): 64 × 64."""


@dataclass(frozen=True)
class Pick:
    """A rule that says which elements to send, of a vector and a density."""

    positions: Callable[[torch.Tensor, Fraction, int], torch.Tensor]
    """Of the values, with a density and a seed: int64, rising, on the same device."""
    sent_max: Callable[[Fraction, int], int]
    """How many they are at most, of so many elements."""
    share: Callable[[Fraction, int], float]
    """Of ‖x‖²: what they have at least."""


@final
class SparseCodec(Codec):
    """Sends what a rule picks, and nothing of the rest.

    Args:
        density: the elements to be sent, over all.
        values: how their values travel; of a quantizer.
    """

    def __init__(self, name: str, pick: Pick, density: Fraction, values: Codec) -> None:
        self.name = name
        self.same_everywhere = values.same_everywhere
        self._pick = pick
        self._density = density
        self._values = values

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        positions = self._pick.positions(values, self._density, seed)
        return write_frame(values, positions, self._values, seed)

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        read_frame(frame, out, self._values, self._sent_max(out.numel()))

    def size_limit_bytes(self, count: int) -> int:
        return frame_size_limit_bytes(count, self._sent_max(count), self._values)

    def constants(self, count: int) -> Constants:
        """Those of how values travel, of the share of the vector that is sent."""
        share = self._pick.share(self._density, count)
        return self._values.constants(self._sent_max(count)).of_kept(share)

    def _sent_max(self, count: int) -> int:
        return self._pick.sent_max(self._density, count)


def largest_by_block(values: torch.Tensor, density: Fraction) -> torch.Tensor:
    """Where the largest of each block of 4096 stand, so many as the density says of it."""
    last = values.numel() % BLOCK_ELEMENTS
    return largest_of_blocks(
        values,
        BLOCK_ELEMENTS,
        sent_of(density, BLOCK_ELEMENTS),
        sent_of(density, last) if last else 0,
    )


def sent_by_block(density: Fraction, count: int) -> int:
    """How many of count elements are sent, if each block sends its own."""
    blocks, last = divmod(count, BLOCK_ELEMENTS)
    rest = sent_of(density, last) if last else 0
    return blocks * sent_of(density, BLOCK_ELEMENTS) + rest


def _ranked(
    find: Callable[[torch.Tensor, int, int], torch.Tensor],
    most: Callable[[int, int], int] = lambda count, kept: kept,
    least: Callable[[int, int], int] = lambda count, kept: kept,
) -> Pick:
    """A rule that finds n of the largest where k are wanted.

    Args:
        find: gets the values, k, and a seed.
        most, least: n, of so many elements and this k.
    """
    return Pick(
        lambda values, density, seed: find(values, sent_of(density, values.numel()), seed),
        lambda density, count: most(count, sent_of(density, count)),
        lambda density, count: least(count, sent_of(density, count)) / count,
    )


TOPK: Final = _ranked(lambda values, kept, seed: largest(values, kept))
"""Exactly the largest; of equal ones the first."""
GAUSSIAN: Final = _ranked(
    lambda values, kept, seed: gaussian_largest(values, kept),
    lambda count, kept: min(count, gaussian_sent_max(kept)),
    lambda count, kept: -(-2 * kept // 3),
)
"""About the largest, from two thirds to four thirds as many."""
PUBLISHED_GAUSSIAN: Final = _ranked(
    lambda values, kept, seed: gaussian_as_published(values, kept),
    lambda count, kept: count,
    lambda count, kept: 0,
)
"""What the published loop finds: any number at all."""
DGC: Final = _ranked(sampled_largest, least=dgc_sampled_above)
"""The largest above a threshold that a sample tells, no more than k."""
BY_BLOCK: Final = Pick(
    lambda values, density, seed: largest_by_block(values, density),
    sent_by_block,
    # Blocks round up what they send.
    lambda density, count: float(density),
)
"""The largest of each block of 4096."""
