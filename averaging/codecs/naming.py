"""The grammar of codecs' names: a kind, numbers behind a colon, and how chosen values travel.

    KIND                        sign, adaptive-random
    KIND:NUMBER[,NUMBER…]       int8-block:4096, dither:2,7
    KIND:DENSITY[:VALUES]       topk:0.01, topk:0.01:dither:2,7

VALUES is the name of a quantizer. A codec's own name leaves out VALUES that are as usual, and
spells each number in one way, so that equal names are equal codecs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

from averaging.codecs.codec import Codec

Maker = Callable[[str | None], Codec]
"""Gets what stands after the colon, or None; raises ValueError where that makes no sense."""

_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?(e-?[0-9]{1,2})?")


def made(name: str, makers: Mapping[str, Maker]) -> Codec:
    """The codec of that name.

    Raises:
        ValueError: there is none, or its numbers make no sense; says why.
    """
    kind, colon, detail = name.partition(":")
    if kind not in makers:
        raise ValueError(f"there is no codec {kind!r}; there are {', '.join(sorted(makers))}")
    return makers[kind](detail if colon else None)


def without_numbers(make: Callable[[], Codec]) -> Maker:
    """What makes a codec that has no numbers."""

    def maker(detail: str | None) -> Codec:
        codec = make()
        if detail is not None:
            raise ValueError(f"{codec.name} takes no number, but was given {detail!r}")
        return codec

    return maker


def number_of(what: str, text: str) -> float:
    """A number, written as numbers are, without a sign."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{what} is a number, not {text!r}")
    return float(text)


def whole_of(what: str, text: str) -> int:
    """A whole number without a sign."""
    number = number_of(what, text)
    if not number.is_integer():
        raise ValueError(f"{what} is a whole number, not {text!r}")
    return int(number)


def shortest(number: float | Fraction) -> str:
    """The one way that a name spells a number."""
    return repr(float(number)).removesuffix(".0")


def density_of(text: str) -> Fraction:
    """Sent elements over all; above 0 and at most 1."""
    density = Fraction(shortest(number_of("a density", text)))
    if not 0 < density <= 1:
        raise ValueError(f"a density is above 0 and at most 1, not {text}")
    return density


def sent_of(density: Fraction, count: int) -> int:
    """How many of count elements this density sends: at least one."""
    return -(-density.numerator * count // density.denominator)
