"""Biased compressors: where they fail, what cures them, what they miss, and loss against bits.

Source: A. Beznosikov, S. Horváth, P. Richtárik and M. Safaryan, "On Biased Compression for
Distributed Learning", 2020: the example of section 5.1, the study of distributions, and the plots
of loss against communicated bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from averaging.codecs.registry import codec_named
from tools.bench.compression.descent import Place, descend
from tools.bench.compression.distributions import density_that_misses, drawn, missed_by_topk
from tools.bench.compression.problems import (
    Logistic,
    Problem,
    ThreeWorkers,
    digits_parity,
    synthetic,
)
from tools.bench.compression.uplinks import DENSE, missed, through
from tools.bench.progress import Steps
from tools.bench.report import Row

THREE, MISSED = "three workers", "missed by distribution"
REGRESSION, DIGITS = "logistic regression", "odd digits"
LOOKS = (100, 300, 1000, 3000)
TABLES: dict[str, tuple[str, ...]] = {
    THREE: ("codec", "error_feedback", "steps", "loss", "loss_expected"),
    MISSED: (
        "numbers",
        "density",
        "missed_by_topk",
        "exact",
        "missed_by_rand_k",
        "density_that_misses_half",
        "exact_density",
    ),
    REGRESSION: ("codec", "error_feedback", *(f"excess_at_{look}" for look in LOOKS), "kbits"),
    DIGITS: ("codec", "error_feedback", "steps", "excess", "kbits", "times_fewer_bits"),
}
NONE, EF, EF21 = "none", "ef", "ef21"
TOP_1, TOP_5 = "topk:0.02", "topk:0.1"
DITHERED_5, RAND_5 = "topk:0.1:dither:2,7", "rand-k-biased:0.1"
TOP, DITHERED, RAND = "topk:0.01", "topk:0.01:dither:2,7", "rand-k-biased:0.01"
NATURAL = "dither:2,7"
"""Natural dithering: base 2, of the largest magnitude."""
UNBIASED = "rand-k:0.01"
REGRESSION_METHODS = (
    (DENSE, NONE),
    *((codec, how) for codec in (TOP_1, TOP_5) for how in (NONE, EF, EF21)),
    *((codec, how) for codec in (DITHERED_5, RAND_5, NATURAL) for how in (EF, EF21)),
)
DIGITS_METHODS = (
    (DENSE, NONE),
    *((codec, how) for codec in (TOP, DITHERED, RAND, NATURAL) for how in (EF, EF21)),
    *((codec, NONE) for codec in (NATURAL, UNBIASED)),
    ("gaussian-k:0.01", EF),
    ("sign", EF),
)
OTHER_METHODS = (
    *(
        (codec, how)
        for codec in (
            "gaussian-k:0.01",
            "dgc:0.01",
            "sparse-loco:0.02",
            "demo:0.02",
            "topk:0.01:int4-block",
            "adaptive-random",
            "sign",
            "onebit",
            "natural",
            "nearest:2",
            "rounding:2",
            "quantile8",
            "int8-block",
            "int4-block",
            "float16",
        )
        for how in (EF, EF21)
        if (codec, how) not in DIGITS_METHODS
    ),
    (TOP, "ef21-momentum"),
)
"""One of each other kind. Without bias Rand-k is no contraction, so feedback makes it diverge."""
KEPT = (0.1, 0.5)
DISTRIBUTIONS = ("uniform", "normal", "exponential", "Student-3")
THREE_RATE = 0.02
ENOUGH = 0.05
"""f(x) − f* to be reached on digits, of 0.68 at the beginning."""
_PLOTTED = 60
"""Places of a curve."""


@dataclass(frozen=True)
class BiasedOptions:
    """How much is measured."""

    elements: int = 1_000_000
    steps: int = 1_000
    """Of logistic regression."""
    three_steps: int = 1_500
    digits_steps: int = 500
    """At most."""
    features: int = 1_000
    methods: tuple[tuple[str, str], ...] = DIGITS_METHODS
    """Of digits: codecs, and how error feedback is."""


def measure_biased(options: BiasedOptions, steps: Steps) -> list[Row]:
    """All rows of the four tables."""
    steps.case("three workers")
    rows = [three_workers(how, options.three_steps) for how in (NONE, EF, EF21)]
    steps.step()
    steps.case("what is missed, by distribution")
    rows += [_missed(name, density, options.elements) for name in DISTRIBUTIONS for density in KEPT]
    steps.step()
    problem = synthetic()
    for codec, how in REGRESSION_METHODS:
        steps.case(f"logistic regression, {codec}, error feedback {how}")
        rows.append(regression(problem, codec, how, options.steps))
        steps.step()
    problem = digits_parity(options.features)
    digits = []
    for codec, how in options.methods:
        steps.case(f"odd digits, {codec}, error feedback {how}")
        digits.append(odd_digits(problem, codec, how, options.digits_steps))
        steps.step()
    for row in digits:
        reached = row["kbits"] and digits[0]["kbits"]
        row["times_fewer_bits"] = digits[0]["kbits"] / row["kbits"] if reached else None
    return rows + digits


def expected_steps(options: BiasedOptions) -> int:
    """How often measure_biased() says that it has got further."""
    return 2 + len(REGRESSION_METHODS) + len(options.methods)


def three_workers(how: str, steps: int) -> Row:
    """Descent with Top-1; without error feedback as many steps as a float holds."""
    steps = steps if how != NONE else min(steps, 500)
    codec = "topk:0.3:float32"
    problem = ThreeWorkers()
    places = descend(problem, codec, how, rate=THREE_RATE, steps=steps, looks=())
    return {
        "part": THREE,
        "codec": codec,
        "error_feedback": how,
        "steps": steps,
        "loss": places[-1].excess,
        # Each step multiplies the point, and f is a square of it.
        "loss_expected": problem.loss(problem.start()) * (1 + 11 / 6 * THREE_RATE) ** (2 * steps)
        if how == NONE
        else 0.0,
    }


def _missed(name: str, density: float, elements: int) -> Row:
    values = drawn(name, elements)
    figures = {}
    for kind in ("topk", "rand-k-biased"):
        decoded = torch.empty_like(values)
        through(codec_named(f"{kind}:{density:g}:float32"), values, 1, decoded)
        figures[kind] = missed(decoded, values)
    return {
        "part": MISSED,
        "numbers": name,
        "density": density,
        "missed_by_topk": figures["topk"],
        "exact": missed_by_topk(name, density),
        "missed_by_rand_k": figures["rand-k-biased"],
        "density_that_misses_half": half_missed(values),
        "exact_density": density_that_misses(name, 0.5),
    }


def half_missed(values: torch.Tensor) -> float:
    """The part of the elements, the largest first, that hold half of ‖x‖²."""
    squares = values.double().square().sort(descending=True).values.cumsum(0)
    return float((squares < squares[-1] / 2).sum() + 1) / len(values)


def regression(problem: Logistic, codec: str, how: str, steps: int) -> Row:
    """Descent at half of the rate that smoothness allows, and where it was on the way."""
    looks = {*LOOKS, *_spread(steps)}
    rate = 1 / (2 * problem.smoothness)
    places = descend(problem, codec, how, rate=rate, steps=steps, looks=looks)
    at = {place.step: place.excess for place in places}
    return {
        "part": REGRESSION,
        "codec": codec,
        "error_feedback": how,
        **{f"excess_at_{look}": at.get(look) for look in LOOKS},
        "excess": places[-1].excess,
        "kbits": places[-1].bits / 1e3,
        "curve": _curve(problem, places),
    }


def odd_digits(problem: Logistic, codec: str, how: str, steps: int, enough: float = ENOUGH) -> Row:
    """Descent until it is near enough, and what was sent till then."""
    slower = _times_slower(problem, codec, how)
    rate, steps = 1 / problem.smoothness / slower, math.ceil(steps * slower)
    places = descend(
        problem, codec, how, rate=rate, steps=steps, looks=range(0, steps, 2), enough=enough
    )
    last = places[-1]
    reached = last.excess <= enough
    return {
        "part": DIGITS,
        "codec": codec,
        "error_feedback": how,
        "steps": last.step,
        "excess": last.excess,
        "kbits": last.bits / 1e3 if reached else None,
        "curve": _curve(problem, places),
    }


def _times_slower(problem: Problem, codec: str, how: str) -> float:
    """Of unbiased codecs without error feedback: 1 + 2(ζ − 1)/n, which their chance demands.

    Source: E. Gorbunov, F. Hanzely and P. Richtárik, "A Unified Theory of SGD", 2020, on quantized
    descent of n workers.
    """
    if codec == DENSE or how != NONE:
        return 1.0
    variance = codec_named(codec).constants(problem.start().size).unbiased
    assert variance is not None, f"{codec} is biased, and loses without error feedback"
    return 1 + 2 * (variance - 1) / problem.workers


def _spread(steps: int) -> list[int]:
    return [max(1, round(steps * number / _PLOTTED)) for number in range(1, _PLOTTED + 1)]


def _curve(problem: Problem, places: Sequence[Place]) -> list[tuple[float, float]]:
    """Kilobits and f(x) − f*, from the beginning on."""
    first = Place(0, problem.loss(problem.start()) - problem.lowest, 0.0)
    chosen = places[:: max(1, len(places) // _PLOTTED)]
    return [(place.bits / 1e3, place.excess) for place in (first, *chosen, places[-1])]
