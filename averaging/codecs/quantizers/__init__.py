"""Codecs that send every element, in fewer bits.

Names: `float16`, `bfloat16`, `float16-scaled`; `int8`, `int8-block:ELEMENTS`,
`int4-block:ELEMENTS`; `quantile8`; `natural`, `rounding:BASE`, `nearest:BASE`,
`dither:BASE,LEVELS` and `dither:BASE,LEVELS,NORM` with norm 1, 2 or inf; `sign`, `onebit`.
Numbers may be left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from averaging.codecs.codec import Codec
from averaging.codecs.quantizers.geometric import Geometric, Grid, Norm, levels_within_range
from averaging.codecs.quantizers.halves import Half
from averaging.codecs.quantizers.quantile import Quantile
from averaging.codecs.quantizers.signs import Signs
from averaging.codecs.quantizers.uniform import Uniform

Maker = Callable[[str | None], Codec]
INT8_BLOCK, INT4_BLOCK = 4096, 64
"""Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021; and QLoRA, 2023: with so
few symbols as 4 bits have, one large element must not make many others vanish."""
_NORMS: dict[str, Norm] = {"1": "1", "2": "2", "inf": "inf"}


def _plain(make: Callable[[], Codec]) -> Maker:
    """A codec without numbers."""

    def maker(detail: str | None) -> Codec:
        codec = make()
        if detail is not None:
            raise ValueError(f"{codec.name} takes no number, but was given {detail!r}")
        return codec

    return maker


def _blocks(kind: str, largest: int, block: int) -> Maker:
    """A codec whose number is its block's size."""

    def maker(detail: str | None) -> Codec:
        size = block if detail is None else _whole(kind, "a block's size", detail)
        return Uniform(f"{kind}:{size}", largest, size)

    return maker


def _grid(kind: str, *, nearest: bool) -> Maker:
    """A codec whose number is its base, with as many levels as float32 and whole bits have."""

    def maker(detail: str | None) -> Codec:
        base = _number(kind, "a base", detail or "2")
        # The base is checked where the grid is made.
        levels = levels_within_range(base) if base > 1 else 1
        full = (1 << ((levels + 1).bit_length() - 1)) - 1
        return Geometric(f"{kind}:{base:g}", Grid(base=base, levels=full, nearest=nearest))

    return maker


def _dither(detail: str | None) -> Codec:
    parts = (detail or "2,7").split(",")
    if not 2 <= len(parts) <= 3:
        raise ValueError(f"dither takes BASE,LEVELS or BASE,LEVELS,NORM, not {detail!r}")
    norm = parts[2] if len(parts) == 3 else "inf"
    if norm not in _NORMS:
        raise ValueError(f"dither knows the norms {', '.join(_NORMS)}, not {norm!r}")
    base, levels = _number("dither", "a base", parts[0]), _whole("dither", "levels", parts[1])
    name = f"dither:{base:g},{levels}" + (f",{norm}" if norm != "inf" else "")
    return Geometric(name, Grid(base=base, levels=levels, norm=_NORMS[norm]))


def _number(kind: str, what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise ValueError(f"{kind} takes {what} as a number, not {text!r}") from exc


def _whole(kind: str, what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise ValueError(f"{kind} takes {what} as a whole number, not {text!r}") from exc


MAKERS: dict[str, Maker] = {
    "float16": _plain(lambda: Half("float16", torch.float16)),
    "bfloat16": _plain(lambda: Half("bfloat16", torch.bfloat16)),
    "float16-scaled": _plain(lambda: Half("float16-scaled", torch.float16, scaled=True)),
    "int8": _plain(lambda: Uniform("int8", 127)),
    "int8-block": _blocks("int8-block", 127, INT8_BLOCK),
    "int4-block": _blocks("int4-block", 7, INT4_BLOCK),
    "quantile8": _plain(lambda: Quantile("quantile8")),
    "natural": _plain(lambda: Geometric("natural", Grid(base=2.0, levels=127, power_top=True))),
    "rounding": _grid("rounding", nearest=False),
    "nearest": _grid("nearest", nearest=True),
    "dither": _dither,
    "sign": _plain(lambda: Signs("sign", two_means=False)),
    "onebit": _plain(lambda: Signs("onebit", two_means=True)),
}
"""The codec of each kind, from what stands after the colon of its name."""
