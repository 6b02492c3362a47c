"""Rules by which an aggregator combines contributions, and their text in messages (core)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

# A rule's text comes from peers; the longest that we write is far shorter.
TEXT_LENGTH_MAX: Final = 80
# A thousandth bears one liar among a thousand members; no group is larger.
FRACTION_MIN: Final = 0.001
# The start is bounded already, and each iteration reads all contributions twice.
ITERATIONS_MAX: Final = 20

CHOICES: Final = (
    "mean, median, trimmed_mean(0.2), or centered_clipping(1, 3), with numbers of yours"
)

_NUMBER: Final = r"\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?"
_TEXT: Final = re.compile(rf"(\w+)(?:\(\s*({_NUMBER})\s*(?:,\s*(\d{{1,3}})\s*)?\))?", re.ASCII)


class RuleKind(Enum):
    """What is done with the contributions to a chunk."""

    MEAN = "mean"
    """The weighted mean. Breakdown point 0: one liar moves it anywhere."""
    TRIMMED_MEAN = "trimmed_mean"
    """For each coordinate, the weighted mean without a fraction of the weight at either end.
    Breakdown point: the fraction."""
    MEDIAN = "median"
    """For each coordinate, the weighted median. Breakdown point 1/2."""
    CENTERED_CLIPPING = "centered_clipping"
    """The mean after each vector's distance from a center was cut to a radius, a few times over.
    Breakdown point 1/2."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How an aggregator combines contributions.

    The *breakdown point* is the share of the weight that liars must reach before they can move
    the result as far as they like. Below it the result stays among the honest values: for each
    coordinate between the least and the largest of them (trimmed mean, median), or in a ball
    around their median (centered clipping). It is counted in weight, not in heads, and for the
    trimmed mean liars may hold the fraction itself.

    Sources: D. Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates", 2018 (trimmed mean, median); S. P. Karimireddy, L. He, M. Jaggi, "Learning from History
    for Byzantine Robust Optimization", 2021 (centered clipping).
    """

    kind: RuleKind
    """What is done."""
    fraction: float | None = None
    """Of the total weight, what a trimmed mean drops at each end: from 0.001 to below 0.5."""
    radius: float | None = None
    """Where centered clipping cuts, as a multiple of the median distance from the center."""
    iterations: int | None = None
    """How often centered clipping moves its center, from 1 to 20."""

    def __post_init__(self) -> None:
        trimmed, clipping = (
            self.kind is RuleKind.TRIMMED_MEAN,
            self.kind is RuleKind.CENTERED_CLIPPING,
        )
        given = (self.fraction is not None, self.radius is not None, self.iterations is not None)
        if given != (trimmed, clipping, clipping):
            raise ValueError(f"{self.kind.value} has the wrong numbers; choose {CHOICES}")
        if self.fraction is not None and not FRACTION_MIN <= self.fraction < 0.5:
            raise ValueError(
                f"the fraction must be from {FRACTION_MIN} to below 0.5, not {self.fraction}"
            )
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise ValueError(f"the radius must be a finite number above 0, not {self.radius}")
        if self.iterations is not None and not 1 <= self.iterations <= ITERATIONS_MAX:
            raise ValueError(
                f"the iterations must be from 1 to {ITERATIONS_MAX}, not {self.iterations}"
            )

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The rule that a text names, as `str(rule)` writes it.

        Raises:
            ValueError: it names none; the error says what may be chosen.
        """
        match = _TEXT.fullmatch(text) if len(text) <= TEXT_LENGTH_MAX else None
        kind = next((kind for kind in RuleKind if match and match[1] == kind.value), None)
        if match is None or kind is None:
            raise ValueError(f"no rule {text[:TEXT_LENGTH_MAX]!r}; choose {CHOICES}")
        number = None if match[2] is None else float(match[2])
        whole = None if match[3] is None else int(match[3])
        if kind is RuleKind.CENTERED_CLIPPING:
            return cls(kind=kind, radius=number, iterations=whole)
        return cls(kind=kind, fraction=number, iterations=whole)

    def __str__(self) -> str:
        match self.kind:
            case RuleKind.TRIMMED_MEAN:
                return f"{self.kind.value}({_plain(self.fraction)})"
            case RuleKind.CENTERED_CLIPPING:
                return f"{self.kind.value}({_plain(self.radius)}, {self.iterations})"
            case _:
                return str(self.kind.value)

    @property
    def members_min(self) -> int:
        """The fewest members of equal weight among whom the rule bears one liar; 1 for the mean."""
        if self.kind is RuleKind.MEAN:
            return 1
        return 3 if self.fraction is None else max(3, math.ceil(1 / self.fraction - 1e-9))

    def liars_max(self, members: int) -> int:
        """How many liars the rule bears among so many members of equal weight."""
        match self.kind:
            case RuleKind.MEAN:
                return 0
            case RuleKind.TRIMMED_MEAN:
                assert self.fraction is not None
                # A fraction such as 0.29 of 100 falls short of 29 by rounding only.
                return min(math.floor(self.fraction * members + 1e-9), (members - 1) // 2)
            case RuleKind.MEDIAN | RuleKind.CENTERED_CLIPPING:
                return max(0, (members - 1) // 2)


MEAN: Final = Rule(kind=RuleKind.MEAN)


def _plain(number: float | None) -> str:
    return repr(number).removesuffix(".0")
