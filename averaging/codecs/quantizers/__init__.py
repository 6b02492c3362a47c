"""Codecs that send every element, in fewer bits; all numbers of their names may be left out."""

from __future__ import annotations

import torch

from averaging.codecs.codec import Codec
from averaging.codecs.naming import Maker, number_of, shortest, whole_of, without_numbers
from averaging.codecs.quantizers.geometric import Geometric, Grid, Norm, levels_within_range
from averaging.codecs.quantizers.halves import Half
from averaging.codecs.quantizers.plain import Plain
from averaging.codecs.quantizers.quantile import Quantile
from averaging.codecs.quantizers.signs import Signs
from averaging.codecs.quantizers.uniform import Uniform

INT8_BLOCK, INT4_BLOCK = 4096, 64
"""Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021; and QLoRA, 2023: with so
few symbols as 4 bits have, one large element must not make many others vanish."""
_NORMS: dict[str, Norm] = {"1": "1", "2": "2", "inf": "inf"}


def _blocks(kind: str, largest: int, block: int) -> Maker:
    """KIND:ELEMENTS, the size of a block."""

    def maker(detail: str | None) -> Codec:
        size = block if detail is None else whole_of("a block's size", detail)
        return Uniform(f"{kind}:{size}", largest, size)

    return maker


def _grid(kind: str, *, nearest: bool) -> Maker:
    """KIND:BASE, with as many levels as float32 and whole bits have."""

    def maker(detail: str | None) -> Codec:
        base = 2.0 if detail is None else number_of("a base", detail)
        # The base is checked where the grid is made.
        levels = levels_within_range(base) if base > 1 else 1
        full = (1 << ((levels + 1).bit_length() - 1)) - 1
        grid = Grid(base=base, levels=full, nearest=nearest)
        return Geometric(f"{kind}:{shortest(base)}", grid)

    return maker


def _dither(detail: str | None) -> Codec:
    """dither:BASE,LEVELS[,NORM]; the norm is inf where it is left out."""
    parts = ["2", "7"] if detail is None else detail.split(",")
    if not 2 <= len(parts) <= 3:
        raise ValueError(f"dither takes BASE,LEVELS or BASE,LEVELS,NORM, not {detail!r}")
    norm = parts[2] if len(parts) == 3 else "inf"
    if norm not in _NORMS:
        raise ValueError(f"dither knows the norms {', '.join(_NORMS)}, not {norm!r}")
    base, levels = number_of("a base", parts[0]), whole_of("the number of levels", parts[1])
    name = f"dither:{shortest(base)},{levels}" + (f",{norm}" if norm != "inf" else "")
    return Geometric(name, Grid(base=base, levels=levels, norm=_NORMS[norm]))


MAKERS: dict[str, Maker] = {
    "float32": without_numbers(Plain),
    "float16": without_numbers(lambda: Half("float16", torch.float16)),
    "bfloat16": without_numbers(lambda: Half("bfloat16", torch.bfloat16)),
    "float16-scaled": without_numbers(lambda: Half("float16-scaled", torch.float16, scaled=True)),
    "int8": without_numbers(lambda: Uniform("int8", 127)),
    "int8-block": _blocks("int8-block", 127, INT8_BLOCK),
    "int4-block": _blocks("int4-block", 7, INT4_BLOCK),
    "quantile8": without_numbers(lambda: Quantile("quantile8")),
    "natural": without_numbers(
        lambda: Geometric("natural", Grid(base=2.0, levels=127, power_top=True))
    ),
    "rounding": _grid("rounding", nearest=False),
    "nearest": _grid("nearest", nearest=True),
    "dither": _dither,
    "sign": without_numbers(lambda: Signs("sign", two_means=False)),
    "onebit": without_numbers(lambda: Signs("onebit", two_means=True)),
}
"""The codec of each kind, from what stands after the colon of its name."""
