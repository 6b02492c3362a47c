"""`manyhands bench sparsifiers`: how fast few elements are picked, and how small they become.

Operators alone, as in the paper on Gaussian_k: exact Top-k of PyTorch, ours, thresholds by a sample
and by a bell curve; then whole codecs, there and back. One thread; the repetitions of all take
turns, and the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from averaging.codecs.registry import codec_named
from averaging.codecs.sparsifiers.gaussian import (
    gaussian_as_published,
    gaussian_largest,
    sampled_largest,
)
from averaging.codecs.sparsifiers.scan import largest
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = ("what", "elements", "density", "pick_ms", "encode_ms", "decode_ms", "times_smaller")
TORCH, OURS, DGC = "torch.topk", "our exact Top-k", "DGC's sample"
GAUSSIAN, PUBLISHED = "Gaussian_k", "Gaussian_k as published"
SPEEDUP_MIN, SPEEDUP_FROM_ELEMENTS = 1.5, 1_000_000
"""Of Gaussian_k against the exact Top-k of PyTorch, from so many elements on."""
ROUND_TRIP_MS_MAX, ROUND_TRIP_ELEMENTS = 50.0, 5_000_000
CODECS = (
    "topk:0.01",
    "gaussian-k:0.01",
    "dgc:0.01",
    "rand-k:0.01",
    "rand-k-biased:0.01",
    "topk-dither:0.01",
    "sparse-loco:0.02",
    "demo:0.02",
)


@dataclass(frozen=True)
class SparsifiersOptions:
    """How much is measured."""

    elements: tuple[int, ...] = (131_072, 1_000_000, 5_000_000)
    density: float = 0.001
    """Of the operators; the paper's."""
    repetitions: int = 5


def run_sparsifiers(options: SparsifiersOptions, steps: Steps) -> Report:
    """Measure operators and codecs on vectors of a bell curve."""
    report = Report("sparsifiers", COLUMNS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps.expect(2 * len(options.elements))
        for count in options.elements:
            values = torch.randn(count, generator=torch.Generator().manual_seed(count))
            steps.case(f"operators on {count} elements")
            report.rows += operator_rows(values, options)
            steps.step()
            steps.case(f"codecs on {count} elements")
            report.rows += codec_rows(values, options.repetitions)
            steps.step()
    finally:
        torch.set_num_threads(threads)
    report.budgets = budgets(report.rows)
    return report


def operator_rows(values: torch.Tensor, options: SparsifiersOptions) -> list[Row]:
    """What each way of picking takes."""
    kept = max(1, round(options.density * values.numel()))
    taken = alternately(
        {
            TORCH: lambda: values.abs().topk(kept, sorted=False),
            OURS: lambda: largest(values, kept),
            DGC: lambda: sampled_largest(values, kept, 1),
            GAUSSIAN: lambda: gaussian_largest(values, kept),
            PUBLISHED: lambda: gaussian_as_published(values, kept),
        },
        options.repetitions,
    )
    shared = {"elements": values.numel(), "density": options.density}
    return [{"what": what, **shared, "pick_ms": 1e3 * taken_s} for what, taken_s in taken.items()]


def codec_rows(values: torch.Tensor, repetitions: int) -> list[Row]:
    """What each codec takes there and back."""
    rows = []
    for name in CODECS:
        codec = codec_named(name)
        frame, out = codec.encode(values, 1), torch.empty_like(values)
        encode, decode = f"{name} there", f"{name} back"
        taken = alternately(
            {encode: partial(codec.encode, values, 1), decode: partial(codec.decode, frame, out)},
            repetitions,
        )
        rows.append(
            {
                "what": name,
                "elements": values.numel(),
                "density": float(name.split(":")[1]),
                "encode_ms": 1e3 * taken[encode],
                "decode_ms": 1e3 * taken[decode],
                "times_smaller": 4 * values.numel() / frame.numel(),
            }
        )
    return rows


def alternately(works: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The median seconds of each, after one that does not count."""
    taken_s: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repetitions + 1):
        for name, work in works.items():
            begun_s = time.perf_counter()
            work()
            if repetition:
                taken_s[name].append(time.perf_counter() - begun_s)
    return {name: statistics.median(taken) for name, taken in taken_s.items()}


def budgets(rows: list[Row]) -> list[Budget]:
    """What the paper claims, and what a round has time for."""
    picked = {(row["what"], row["elements"]): row["pick_ms"] for row in rows if "pick_ms" in row}
    promises = [
        Budget(
            f"Gaussian_k against torch.topk, {count} elements",
            picked[TORCH, count] / picked[GAUSSIAN, count],
            SPEEDUP_MIN,
            "times as fast",
            ">=",
        )
        for what, count in picked
        if what == GAUSSIAN and count >= SPEEDUP_FROM_ELEMENTS
    ]
    promises += [
        Budget(
            f"{row['what']}, there and back, {row['elements']} elements",
            row["encode_ms"] + row["decode_ms"],
            ROUND_TRIP_MS_MAX,
            "ms",
            "<=",
        )
        for row in rows
        if "encode_ms" in row and row["elements"] == ROUND_TRIP_ELEMENTS
    ]
    return promises
