"""`manyhands bench sparsifiers`: how fast about the k largest of many numbers are found.

Operators alone, as in the paper on Gaussian_k: exact Top-k of PyTorch, ours, thresholds by a sample
and by a bell curve. What counts is the processor's time of the one thread, so that others on the
machine disturb little, and on a GPU the time until it is done; the repetitions of all take turns,
and the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from averaging.codecs.sparsifiers.gaussian import (
    gaussian_as_published,
    gaussian_largest,
    sampled_largest,
)
from averaging.codecs.sparsifiers.scan import largest
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = ("operator", "numbers", "device", "elements", "ms", "times_as_fast", "selected_of_wanted")
CPU, GPU = "cpu", "cuda"
TORCH, OURS, DGC = "torch.topk", "our exact Top-k", "DGC's sample"
GAUSSIAN, PUBLISHED = "Gaussian_k", "Gaussian_k as published"
OPERATORS: Final[dict[str, Callable[[torch.Tensor, int], torch.Tensor]]] = {
    TORCH: lambda values, kept: values.abs().topk(kept, sorted=False).indices,
    OURS: largest,
    DGC: lambda values, kept: sampled_largest(values, kept, 1),
    GAUSSIAN: gaussian_largest,
    PUBLISHED: gaussian_as_published,
}
SPEEDUP_MIN = {CPU: 1.5, GPU: 3.0}
SPEEDUP_FROM_ELEMENTS = 1_000_000
"""Of Gaussian_k against the exact Top-k of PyTorch, from so many elements on."""


@dataclass(frozen=True)
class SparsifiersOptions:
    """How much is measured."""

    elements: tuple[int, ...] = (131_072, 1_000_000, 10_000_000)
    density: float = 0.001
    """The paper's."""
    repetitions: int = 5


def run_sparsifiers(options: SparsifiersOptions, steps: Steps) -> Report:
    """Measure each operator on numbers of a bell curve, and of one with heavier tails."""
    report = Report("sparsifiers", COLUMNS)
    devices = [CPU, GPU] if torch.cuda.is_available() else [CPU]
    if GPU not in devices:
        report.skip("on a GPU", "PyTorch sees none")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps.expect(2 * len(devices) * len(options.elements))
        for count in options.elements:
            for name, values in numbers_of(count).items():
                for device in devices:
                    steps.case(f"{count:,} elements, {name}, {device}")
                    report.rows += rows_of(name, values.to(device), options)
                    steps.step()
    finally:
        torch.set_num_threads(threads)
    report.budgets = budgets(report.rows)
    return report


def numbers_of(count: int) -> dict[str, torch.Tensor]:
    """Vectors of known distributions, always the same."""
    generator = torch.Generator().manual_seed(count)
    normal = torch.randn(count, generator=generator)
    sizes = torch.empty(count).exponential_(generator=generator)
    return {"normal": normal, "Laplace": normal.sign() * sizes}


def rows_of(name: str, values: torch.Tensor, options: SparsifiersOptions) -> list[Row]:
    """What each operator takes, and how many it selects."""
    kept = max(1, round(options.density * values.numel()))
    taken_s: dict[str, list[float]] = {operator: [] for operator in OPERATORS}
    selected = {}
    # The first of all is not counted.
    for repetition in range(options.repetitions + 1):
        for operator, pick in OPERATORS.items():
            begun_s = _now_s(values.device)
            selected[operator] = len(pick(values, kept))
            if repetition:
                taken_s[operator].append(_now_s(values.device) - begun_s)
    medians_s = {operator: statistics.median(taken) for operator, taken in taken_s.items()}
    return [
        {
            "operator": operator,
            "numbers": name,
            "device": values.device.type,
            "elements": values.numel(),
            "ms": 1e3 * median_s,
            "times_as_fast": medians_s[TORCH] / median_s,
            "selected_of_wanted": selected[operator] / kept,
        }
        for operator, median_s in medians_s.items()
    ]


def _now_s(device: torch.device) -> float:
    if device.type == CPU:
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def budgets(rows: list[Row]) -> list[Budget]:
    """What the paper claims of its operator, of ours that mends it."""
    return [
        Budget(
            f"Gaussian_k against torch.topk, {row['numbers']}, {row['elements']:,} elements"
            f"{', on a GPU' if row['device'] == GPU else ''}",
            row["times_as_fast"],
            SPEEDUP_MIN[row["device"]],
            "times as fast",
            ">=",
        )
        for row in rows
        if row["operator"] == GAUSSIAN and row["elements"] >= SPEEDUP_FROM_ELEMENTS
    ]
