"""Codecs that send the elements that some rule picks, with their positions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import final

import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.sparsifiers.frame import frame_size_limit_bytes, read_frame, write_frame
from averaging.codecs.sparsifiers.gaussian import (
    dgc_sampled_above,
    gaussian_as_published,
    gaussian_largest,
    gaussian_sent_max,
    sampled_largest,
)
from averaging.codecs.sparsifiers.naming import (
    density_of,
    fields_of,
    named,
    number_of,
    sent_of,
    shortest,
    values_named,
)
from averaging.codecs.sparsifiers.scan import largest, largest_of_tiles
from averaging.codecs.sparsifiers.values import (
    FLOAT16_ERROR,
    TILE_ELEMENTS,
    DitheredValues,
    TwoBitValues,
    ValueCoder,
)

Pick = Callable[[torch.Tensor, int], torch.Tensor]
"""Gets values and a seed, returns the positions to send: int64, rising, on the same device."""
PickLargest = Callable[[torch.Tensor, int, int], torch.Tensor]
"""Gets values, how many are wanted, and a seed."""
OfCount = Callable[[int], int]
"""Something that depends on how many elements there are."""


@final
class SparseCodec(Codec):
    """Sends what a rule picks, and nothing of the rest.

    Args:
        name: of the codec.
        pick: the rule.
        coder: how the values travel.
        sent_max: how many of so many elements the rule picks at most.
        constants: the classes for so many elements.
    """

    same_everywhere = True

    def __init__(
        self,
        name: str,
        pick: Pick,
        coder: ValueCoder,
        sent_max: OfCount,
        constants: Callable[[int], Constants],
    ) -> None:
        self.name = name
        self._pick = pick
        self._coder = coder
        self._sent_max = sent_max
        self._constants = constants

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return write_frame(values, self._pick(values, seed), self._coder, seed)

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        read_frame(frame, out, self._coder, self._sent_max(out.numel()))

    def size_limit_bytes(self, count: int) -> int:
        return frame_size_limit_bytes(count, self._sent_max(count), self._coder)

    def constants(self, count: int) -> Constants:
        return self._constants(count)


def kept_share(share: float, error: float) -> Constants:
    """The classes of what keeps this share of ‖x‖² at least, and rounds what it keeps.

    Args:
        share: k/d of Top-k, q of biased random sparsification.
        error: by what share of itself a kept element may change.

    Source: Beznosikov et al., section 2; with an error they follow from the same expansions.
    """
    return Constants(
        b1=(share * (1 - error) ** 2, 1 + error),
        b2=(share * (1 - error), 1 + error),
        b3=1 / (share * (1 - error**2)),
    )


def make_topk(detail: str | None) -> Codec:
    """topk:DENSITY[:VALUES], exactly the largest; of equal ones the first."""
    return _ranked(
        "topk",
        detail,
        lambda values, kept, seed: largest(values, kept),
        sent_max=lambda count, kept: kept,
        sent_min=lambda count, kept: kept,
    )


def make_gaussian(detail: str | None) -> Codec:
    """gaussian-k:DENSITY[:VALUES], about the largest, from two thirds to four thirds as many."""
    return _ranked(
        "gaussian-k",
        detail,
        lambda values, kept, seed: gaussian_largest(values, kept),
        sent_max=lambda count, kept: min(count, gaussian_sent_max(kept)),
        sent_min=lambda count, kept: -(-2 * kept // 3),
    )


def make_published_gaussian(detail: str | None) -> Codec:
    """gaussian-k-paper:DENSITY[:VALUES], what the published loop finds: any number at all."""
    return _ranked(
        "gaussian-k-paper",
        detail,
        lambda values, kept, seed: gaussian_as_published(values, kept),
        sent_max=lambda count, kept: count,
        sent_min=lambda count, kept: 0,
    )


def make_dgc(detail: str | None) -> Codec:
    """dgc:DENSITY[:VALUES], the largest above a threshold that a sample tells, no more than k."""
    return _ranked(
        "dgc",
        detail,
        sampled_largest,
        sent_max=lambda count, kept: kept,
        sent_min=dgc_sampled_above,
    )


def _ranked(
    kind: str,
    detail: str | None,
    pick: PickLargest,
    sent_max: Callable[[int, int], int],
    sent_min: Callable[[int, int], int],
) -> Codec:
    """A codec that sends the n largest, n between what sent_min and sent_max say of count and k."""
    density_text, values_name = fields_of(detail, kind, "DENSITY[:VALUES]", 2)
    density = density_of(density_text)
    values_name = values_name or "float16"
    error = FLOAT16_ERROR if values_name == "float16" else 0.0

    def kept(count: int) -> int:
        return sent_of(density, count)

    def constants(count: int) -> Constants:
        least = sent_min(count, kept(count))
        return kept_share(least / count, error) if least else Constants()

    return SparseCodec(
        named(kind, density, values_name, "float16"),
        lambda values, seed: pick(values, kept(values.numel()), seed),
        values_named(values_name),
        lambda count: sent_max(count, kept(count)),
        constants,
    )


def make_topk_dither(detail: str | None) -> Codec:
    """topk-dither:DENSITY[:BASE[:LEVELS[:NORM]]], exponential dithering of the exactly largest."""
    shape = "DENSITY[:BASE[:LEVELS[:NORM]]]"
    density_text, base_text, levels_text, norm = fields_of(detail, "topk-dither", shape, 4)
    density = density_of(density_text)
    base, levels = number_of(base_text or "2"), number_of(levels_text or "7")
    norm = norm or "inf"
    if not (base > 1 and levels in range(1, 128) and norm in ("inf", "2")):
        raise ValueError(
            "topk-dither has a base above 1, from 1 to 127 levels and the norm inf or 2;"
            f" not {base}, {levels} and {norm}"
        )
    coder = DitheredValues(base, int(levels), infinite_norm=norm == "inf")

    def kept(count: int) -> int:
        return sent_of(density, count)

    def constants(count: int) -> Constants:
        share, variance = kept(count) / count, coder.variance(kept(count))
        return Constants(
            b1=(share, variance),
            b2=(share, variance),
            # Of what Top-k keeps, the chance adds at most ζ − 1 times itself to the error.
            b3=1 / (share * (2 - variance)) if variance < 2 else None,
        )

    return SparseCodec(
        f"topk-dither:{shortest(float(density))}:{shortest(base)}:{int(levels)}:{norm}",
        lambda values, seed: largest(values, kept(values.numel())),
        coder,
        kept,
        constants,
    )


def make_sparse_loco(detail: str | None) -> Codec:
    """sparse-loco:DENSITY, the largest of each tile of 4096, in two bits each."""
    (density_text,) = fields_of(detail, "sparse-loco", "DENSITY", 1)
    density = density_of(density_text)
    return SparseCodec(
        f"sparse-loco:{shortest(float(density))}",
        lambda values, seed: largest_by_tile(values, density),
        TwoBitValues(),
        lambda count: tiled_sent(density, count),
        # Two means stand for the values: of ‖x‖² they hold k/d as Top-k does, and of that a k-th
        # in the worst case, where one element is far above the others.
        lambda count: kept_share(1 / min(TILE_ELEMENTS, count), FLOAT16_ERROR),
    )


def largest_by_tile(values: torch.Tensor, density: Fraction) -> torch.Tensor:
    """Where the largest of each tile of 4096 stand, so many as the density says of it."""
    last = values.numel() % TILE_ELEMENTS
    return largest_of_tiles(
        values,
        TILE_ELEMENTS,
        sent_of(density, TILE_ELEMENTS),
        sent_of(density, last) if last else 0,
    )


def tiled_sent(density: Fraction, count: int) -> int:
    """How many of count elements are sent, if each tile sends its own."""
    tiles, last = divmod(count, TILE_ELEMENTS)
    rest = sent_of(density, last) if last else 0
    return tiles * sent_of(density, TILE_ELEMENTS) + rest
