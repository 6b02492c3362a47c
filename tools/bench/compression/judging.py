"""What the paper on biased compression promises, as budgets of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tools.bench.compression.biased import (
    DIGITS,
    DITHERED,
    DITHERED_5,
    EF,
    EF21,
    LOOKS,
    MISSED,
    NATURAL,
    NONE,
    RAND,
    RAND_5,
    REGRESSION,
    THREE,
    TOP,
    TOP_1,
    TOP_5,
    UNBIASED,
)
from tools.bench.compression.uplinks import DENSE
from tools.bench.report import Budget, Row

GROWTH_OFF_MAX = 1e-3
"""Of the loss after 500 steps: float32 rounds each of them."""
CURED_MAX = 1e-12
MISSED_OFF_MAX = {"Student-3": 0.06}
"""Of what Top-k misses; of Student's numbers, which have no fourth moment, few decide."""
USUAL_OFF_MAX = 0.025
AS_DENSE_MAX = 1.3
"""Of what descent without a codec has left, after the first 300 steps."""
STALLED_MIN, PLATEAU_MIN = 10.0, 5.0
"""Without error feedback against EF, and EF against EF21, at the end: the more steps, the more."""
TIMES = "times as much"


def biased_budgets(rows: Sequence[Row]) -> list[Budget]:
    """All of them."""
    return [
        *_three([row for row in rows if row["part"] == THREE]),
        *_missed([row for row in rows if row["part"] == MISSED]),
        *regression_budgets([row for row in rows if row["part"] == REGRESSION]),
        *_digits([row for row in rows if row["part"] == DIGITS]),
    ]


def _three(rows: Sequence[Row]) -> list[Budget]:
    at = {row["error_feedback"]: row for row in rows}
    off = abs(at[NONE]["loss"] / at[NONE]["loss_expected"] - 1)
    return [
        Budget(
            "three workers without error feedback, off (1 + 11η/6)^k",
            off,
            GROWTH_OFF_MAX,
            "of it",
            "<=",
        ),
        *(
            Budget(f"three workers with {how}: loss", at[how]["loss"], CURED_MAX, "", "<=")
            for how in (EF, EF21)
        ),
    ]


def _missed(rows: Sequence[Row]) -> list[Budget]:
    found = []
    for name in dict.fromkeys(row["numbers"] for row in rows):
        mine = [row for row in rows if row["numbers"] == name]
        off = max(abs(row["missed_by_topk"] / row["exact"] - 1) for row in mine)
        off = max(
            off,
            *(abs(row["density_that_misses_half"] / row["exact_density"] - 1) for row in mine),
        )
        most = MISSED_OFF_MAX.get(name, USUAL_OFF_MAX)
        found.append(
            Budget(f"Top-k on {name} numbers, off what is exact", off, most, "of it", "<=")
        )
    return found


def regression_budgets(rows: Sequence[Row]) -> list[Budget]:
    """EF keeps up with dense at first, EF21 to the end, and what loses the rest does not."""
    at = {(row["codec"], row["error_feedback"]): row for row in rows}
    dense = at[DENSE, NONE]
    early = f"excess_at_{LOOKS[1]}"
    found = [
        Budget(
            f"{codec} with {how} against no codec, after {LOOKS[1]} steps",
            at[codec, how][early] / dense[early],
            AS_DENSE_MAX,
            TIMES,
            "<=",
        )
        for codec, how in ((TOP_1, EF), (TOP_5, EF), (DITHERED_5, EF), (TOP_5, EF21))
    ]
    last = "excess"
    return [
        *found,
        *(
            Budget(
                f"{codec} without error feedback against EF, at the end",
                at[codec, NONE][last] / at[codec, EF][last],
                STALLED_MIN,
                TIMES,
                ">=",
            )
            for codec in (TOP_1, TOP_5)
        ),
        Budget(
            f"{TOP_1}, EF against EF21, at the end",
            at[TOP_1, EF][last] / at[TOP_1, EF21][last],
            PLATEAU_MIN,
            TIMES,
            ">=",
        ),
        Budget(
            f"{RAND_5} against {TOP_5}, both EF, after {LOOKS[1]} steps",
            at[RAND_5, EF][early] / at[TOP_5, EF][early],
            1.0,
            TIMES,
            ">=",
        ),
    ]


def _digits(rows: Sequence[Row]) -> list[Budget]:
    """By error feedback, whose bits are fewer; by chance without any, as the paper compares it."""
    found = []
    told = {how: f"both {how}" for how in (EF, EF21)} | {NONE: "without error feedback"}
    for how in told:
        bits = {
            row["codec"]: math.inf if row["kbits"] is None else row["kbits"]
            for row in rows
            if row["error_feedback"] == how
        }
        fed_back = ((DITHERED, TOP), (TOP, RAND), (TOP, NATURAL))
        pairs = fed_back if how != NONE else ((NATURAL, UNBIASED),)
        found += [
            Budget(
                f"{first} against {second}, {told[how]}, to the same loss",
                bits[first] / bits[second],
                1.0,
                "of its bits",
                "<=",
            )
            for first, second in pairs
        ]
    return found
