"""What stands behind the colon of a sparsifier's name: densities, and how values travel."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from averaging.codecs.sparsifiers.values import Float16Values, Float32Values, ValueCoder

_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?(e-?[0-9])?")
_VALUES: Final = {"float16": Float16Values(), "float32": Float32Values()}


def fields_of(detail: str | None, kind: str, shape: str, field_count: int) -> list[str | None]:
    """The fields between colons, None for those left out; the first must be there.

    Raises:
        ValueError: there are too many or none, or one is empty.
    """
    given = detail.split(":") if detail else []
    if not 1 <= len(given) <= field_count or "" in given:
        raise ValueError(f"{kind} is named {kind}:{shape}, not {kind}:{detail or ''}")
    return [*given, *[None] * (field_count - len(given))]


def number_of(text: str) -> float:
    """A number, written as numbers are, without a sign."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def shortest(number: float) -> str:
    """The one way that a name spells a number."""
    return repr(number).removesuffix(".0")


def named(kind: str, density: Fraction, values_name: str, usual: str) -> str:
    """The one spelling of a codec's name: values are named where they are not as usual."""
    values = "" if values_name == usual else f":{values_name}"
    return f"{kind}:{shortest(float(density))}{values}"


def density_of(text: str | None) -> Fraction:
    """Sent elements over all; above 0 and at most 1."""
    density = Fraction(shortest(number_of(text or "")))
    if not 0 < density <= 1:
        raise ValueError(f"a density is above 0 and at most 1, not {text}")
    return density


def sent_of(density: Fraction, count: int) -> int:
    """How many of count elements this density sends: at least one."""
    return -(-density.numerator * count // density.denominator)


def values_named(name: str) -> ValueCoder:
    """How values travel.

    Raises:
        ValueError: not so.
    """
    if name not in _VALUES:
        raise ValueError(f"values travel as {' or '.join(_VALUES)}, not as {name!r}")
    return _VALUES[name]
