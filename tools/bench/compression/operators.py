"""How about the k largest are found, and what is missed: Top-k, Gaussian_k and DGC.

Source: S. Shi, X. Chu, K. Cheung and S. See, "Understanding Top-k Sparsification in Distributed
Deep Learning", 2019: the time of the operators, figure 2 and theorem 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from averaging.codecs.sparsifiers.gaussian import gaussian_as_published, gaussian_largest
from averaging.codecs.sparsifiers.scan import largest
from tools.bench import sparsifiers
from tools.bench.compression.digits import gradients
from tools.bench.compression.distributions import drawn
from tools.bench.compression.uplinks import missed
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row
from tools.bench.sparsifiers import SparsifiersOptions

TIMES, SELECTED, CONTRACTION = "operators", "selected", "contraction"
TABLES: dict[str, tuple[str, ...]] = {
    TIMES: ("operator", "elements", "ms", "times_as_fast", "selected_of_wanted"),
    SELECTED: ("numbers", "density", "as_published", "as_published_max", "mended", "mended_max"),
    CONTRACTION: (
        "density",
        "missed_mean",
        "missed_max",
        "tighter_bound",
        "usual_bound",
        "skewness_mean",
        "kurtosis_mean",
    ),
}
DENSITIES = (0.1, 0.01, 0.001)
CONTRACTION_DENSITIES = (0.5, *DENSITIES)
OWING = {"gradients, Top-k owes": "topk", "gradients, Gaussian_k owes": "gaussian-k-paper"}
"""What would be sent in learning, by which codec sends it: what that lost is in it."""
SNAPSHOTS, EVERY = 10, 10
"""Of gradients, and the steps of learning between them."""
SKEWNESS_MAX, KURTOSIS_MIN = 0.3, 3.0
"""A bell shape around 0, at least as peaked as the normal distribution."""
_SPARSE = (0.01, 0.001)
"""Where the paper looks at their shape."""
_DISTRIBUTIONS = ("normal", "Laplace", "Student-3", "uniform", "shifted normal")


@dataclass(frozen=True)
class OperatorsOptions:
    """How much is measured."""

    elements: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    selected_elements: int = 1_000_000
    repetitions: int = 5


def measure_operators(options: OperatorsOptions, steps: Steps) -> list[Row]:
    """All rows of the three tables."""
    rows: list[Row] = []
    for count in options.elements:
        steps.case(f"operators, {count:,} elements")
        timed = SparsifiersOptions(repetitions=options.repetitions)
        values = drawn("normal", count)
        rows += [{"part": TIMES, **row} for row in sparsifiers.rows_of("normal", values, timed)]
        steps.step()
    for density in DENSITIES:
        steps.case(f"selected at density {density:g}")
        for name in _DISTRIBUTIONS:
            vectors = [drawn(name, options.selected_elements)]
            rows.append(_selected(name, density, vectors))
        for name, sender in OWING.items():
            vectors = gradients(f"{sender}:{density:g}", 3 * SNAPSHOTS, EVERY // 2)
            rows.append(_selected(name, density, vectors))
        steps.step()
    for density in CONTRACTION_DENSITIES:
        steps.case(f"contraction at density {density:g}")
        rows.append(_contraction(density))
        steps.step()
    return rows


def expected_steps(options: OperatorsOptions) -> int:
    """How often measure_operators() says that it has got further."""
    return len(options.elements) + len(DENSITIES) + len(CONTRACTION_DENSITIES)


def _selected(name: str, density: float, vectors: Sequence[torch.Tensor]) -> Row:
    kept = max(1, round(density * vectors[0].numel()))
    published = [len(gaussian_as_published(vector, kept)) / kept for vector in vectors]
    mended = [len(gaussian_largest(vector, kept)) / kept for vector in vectors]
    return {
        "part": SELECTED,
        "numbers": name,
        "density": density,
        "as_published": sum(published) / len(published),
        "as_published_max": max(published),
        "mended": sum(mended) / len(mended),
        "mended_min": min(mended),
        "mended_max": max(mended),
        "rounding": 1 / kept,
    }


def _contraction(density: float) -> Row:
    vectors = gradients(f"topk:{density:g}", SNAPSHOTS, EVERY)
    shares, skewness, kurtosis = [], [], []
    for vector in vectors:
        kept = max(1, round(density * vector.numel()))
        decoded = torch.zeros_like(vector)
        found = largest(vector, kept)
        decoded[found] = vector[found]
        shares.append(missed(decoded, vector))
        moved = vector.double() - vector.double().mean()
        moved /= moved.square().mean().sqrt()
        skewness.append(abs(float(moved.pow(3).mean())))
        kurtosis.append(float(moved.pow(4).mean()))
    return {
        "part": CONTRACTION,
        "density": density,
        "missed_mean": sum(shares) / len(shares),
        "missed_max": max(shares),
        "tighter_bound": (1 - density) ** 2,
        "usual_bound": 1 - density,
        "skewness_mean": sum(skewness) / len(skewness),
        "kurtosis_mean": sum(kurtosis) / len(kurtosis),
    }


def operators_budgets(rows: Sequence[Row]) -> list[Budget]:
    """What the paper says of Gaussian_k's speed and of what Top-k misses, and what mending adds."""
    timed = [row for row in rows if row["part"] == TIMES]
    selected = [row for row in rows if row["part"] == SELECTED]
    found = [
        # A third more or less than wanted, in whole elements.
        Budget(
            "Gaussian_k mended, selected at most",
            max(row["mended_max"] - row["rounding"] for row in selected),
            4 / 3,
            "of wanted",
            "<=",
        ),
        Budget(
            "Gaussian_k mended, selected at least",
            min(row["mended_min"] for row in selected),
            2 / 3,
            "of wanted",
            ">=",
        ),
    ]
    for row in rows:
        if row["part"] == CONTRACTION:
            name = f"missed of gradients by Top-k at density {row['density']:g}, at most"
            of_bound = row["missed_max"] / row["tighter_bound"]
            found.append(Budget(name, of_bound, 1.0, "of (1 − k/d)²", "<="))
            if row["density"] in _SPARSE:
                skew, kurtosis = row["skewness_mean"], row["kurtosis_mean"]
                found += [
                    Budget(
                        f"skewness of gradients at density {row['density']:g}",
                        skew,
                        SKEWNESS_MAX,
                        "",
                        "<=",
                    ),
                    Budget(
                        f"kurtosis of gradients at density {row['density']:g}",
                        kurtosis,
                        KURTOSIS_MIN,
                        "",
                        ">=",
                    ),
                ]
    return [*sparsifiers.budgets([{**row, "numbers": "normal"} for row in timed]), *found]
