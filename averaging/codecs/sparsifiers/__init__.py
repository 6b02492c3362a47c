"""Codecs that send few elements, or few numbers that stand for all.

Their names say the density, which must be given, and perhaps how values travel.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Final

from averaging.codecs.codec import Codec
from averaging.codecs.naming import (
    Maker,
    density_of,
    made,
    sent_of,
    shortest,
    without_numbers,
)
from averaging.codecs.quantizers import MAKERS as QUANTIZERS
from averaging.codecs.sparsifiers.chance import AdaptiveRandomCodec, RandomCodec
from averaging.codecs.sparsifiers.demo import DemoCodec
from averaging.codecs.sparsifiers.sparse import (
    BLOCK_ELEMENTS,
    BY_BLOCK,
    DGC,
    GAUSSIAN,
    PUBLISHED_GAUSSIAN,
    TOPK,
    Pick,
    SparseCodec,
)
from averaging.codecs.sparsifiers.two_bits import TwoBits

USUAL_VALUES: Final = "float16-scaled"


def _maker(
    kind: str, make: Callable[[str, Fraction, Codec], Codec], usual: str = USUAL_VALUES
) -> Maker:
    """KIND:DENSITY[:VALUES]; values that are left out travel as usual."""

    def maker(detail: str | None) -> Codec:
        density_text, colon, values_name = (detail or "").partition(":")
        density = density_of(density_text)
        values = made(values_name if colon else usual, QUANTIZERS)
        shown = "" if values.name == usual else f":{values.name}"
        return make(f"{kind}:{shortest(density)}{shown}", density, values)

    return maker


def _picks(kind: str, pick: Pick) -> tuple[str, Maker]:
    def make(name: str, density: Fraction, values: Codec) -> Codec:
        return SparseCodec(name, pick, density, values)

    return kind, _maker(kind, make)


def _sparse_loco(detail: str | None) -> Codec:
    """sparse-loco:DENSITY; a block's values share two magnitudes."""
    density = density_of(detail or "")
    values = TwoBits(sent_of(density, BLOCK_ELEMENTS))
    return SparseCodec(f"sparse-loco:{shortest(density)}", BY_BLOCK, density, values)


MAKERS: dict[str, Maker] = dict(
    [
        _picks("topk", TOPK),
        _picks("gaussian-k", GAUSSIAN),
        _picks("gaussian-k-paper", PUBLISHED_GAUSSIAN),
        _picks("dgc", DGC),
    ]
) | {
    "sparse-loco": _sparse_loco,
    "demo": _maker("demo", DemoCodec),
    # Rounding to the nearest would be a bias.
    "rand-k": _maker("rand-k", partial(RandomCodec, unbiased=True), "float32"),
    "rand-k-biased": _maker("rand-k-biased", partial(RandomCodec, unbiased=False)),
    "adaptive-random": without_numbers(AdaptiveRandomCodec),
}
"""The codec of each kind, from what stands after the colon of its name."""
