"""`manyhands bench compression`: the parts that were asked for, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from tools.bench.compression import biased, operators, swarm, training
from tools.bench.compression.biased import BiasedOptions
from tools.bench.compression.judging import biased_budgets
from tools.bench.compression.operators import OperatorsOptions
from tools.bench.compression.swarm import SwarmOptions
from tools.bench.compression.training import TrainingOptions
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report

OPERATORS, TRAINING, BIASED, SWARM = "operators", "training", "biased", "swarm"
PARTS = (OPERATORS, TRAINING, BIASED, SWARM)


@dataclass(frozen=True)
class CompressionOptions:
    """What is measured, and how much of it."""

    parts: Sequence[str] = PARTS
    operators: OperatorsOptions = field(default_factory=OperatorsOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    biased: BiasedOptions = field(default_factory=BiasedOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)

    def full(self) -> CompressionOptions:
        """The same parts at the papers' sizes."""
        return replace(
            self,
            operators=replace(
                self.operators, elements=(*self.operators.elements, 30_000_000), repetitions=9
            ),
            training=replace(self.training, seeds=2, language_steps=120),
            biased=replace(
                self.biased,
                steps=3_000,
                methods=(*self.biased.methods, *biased.OTHER_METHODS),
            ),
            swarm=replace(
                self.swarm,
                codecs=swarm.FULL_CODECS,
                uplinks_mbit=swarm.FULL_UPLINKS_MBIT,
            ),
        )


def run_compression(
    options: CompressionOptions, steps: Steps
) -> tuple[Report, dict[str, list[Budget]]]:
    """Measure each part with one thread; says beside the report which budgets are of which part."""
    report = Report("compression", (), tables=_tables(options.parts))
    steps.expect(_expected_steps(options))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    budgets = {}
    try:
        for part in options.parts:
            budgets[part] = _measure(part, options, steps, report)
            report.budgets += budgets[part]
    finally:
        torch.set_num_threads(threads)
    return report, budgets


def _measure(part: str, options: CompressionOptions, steps: Steps, report: Report) -> list[Budget]:
    """Add the rows of a part to the report."""
    match part:
        case "operators":
            rows = operators.measure_operators(options.operators, steps)
            budgets = operators.operators_budgets(rows)
        case "training":
            rows = training.measure_training(options.training, steps)
            budgets = training.training_budgets(rows)
        case "biased":
            rows = biased.measure_biased(options.biased, steps)
            budgets = biased_budgets(rows)
        case _:
            rows = swarm.measure_swarm(options.swarm, steps, report)
            budgets = swarm.swarm_budgets(rows, options.swarm)
    report.rows += rows
    return budgets


def _tables(parts: Sequence[str]) -> dict[str, tuple[str, Sequence[str]]]:
    of_part: dict[str, dict[str, tuple[str, ...]]] = {
        OPERATORS: operators.TABLES,
        TRAINING: training.TABLES,
        BIASED: biased.TABLES,
        SWARM: swarm.TABLES,
    }
    return {name: (name, columns) for part in parts for name, columns in of_part[part].items()}


def _expected_steps(options: CompressionOptions) -> int:
    steps = {
        OPERATORS: operators.expected_steps(options.operators),
        TRAINING: training.expected_steps(options.training),
        BIASED: biased.expected_steps(options.biased),
        SWARM: swarm.expected_steps(options.swarm),
    }
    return sum(steps[part] for part in options.parts)
