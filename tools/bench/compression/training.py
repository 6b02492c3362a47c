"""What eight workers of one process learn with compressed gradients, and what they send.

Source: S. Shi, X. Chu, K. Cheung and S. See, "Understanding Top-k Sparsification in Distributed
Deep Learning", 2019, on convergence; Rand-k beside it as there.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.compression.digits import WORKERS, Learning
from tools.bench.compression.language import learn_language
from tools.bench.compression.uplinks import DENSE
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row

LEARNING = "learning digits"
LANGUAGE = "learning characters"
TABLES: dict[str, tuple[str, ...]] = {
    LEARNING: (
        "codec",
        "error_feedback",
        "accuracy",
        "accuracy_min",
        "accuracy_max",
        "loss",
        "sent_kb_per_worker",
        "times_fewer_bytes",
    ),
    LANGUAGE: (
        "codec",
        "error_feedback",
        "bits_per_character",
        "sent_kb_per_worker",
        "times_fewer_bytes",
    ),
}
HUNDREDTH = ("topk:0.01", "gaussian-k:0.01", "rand-k-biased:0.01")
PUBLISHED = "gaussian-k-paper:0.001"
"""The published loop, which may select nothing."""
THOUSANDTH = ("topk:0.001", "gaussian-k:0.001", "rand-k-biased:0.001")
EXACT = "topk:0.01:float32"
"""Each sent element as float32 with its position, as the paper's implementation has it."""
METHODS = (
    (DENSE, "none"),
    *((codec, how) for codec in HUNDREDTH for how in ("ef", "none")),
    (EXACT, "ef"),
    *((codec, how) for codec in THOUSANDTH for how in ("ef", "none")),
    (PUBLISHED, "ef"),
)
LANGUAGE_METHODS = METHODS[:7]
LOST_MAX, RANDOM_LOST_MIN, FORGETFUL_LOST_MIN = 0.02, 0.2, 0.1
FEWER_EXACT_MIN, FEWER_MIN = 50.0, 100.0
"""Of 1 %: with four bytes for each value and four for its place 50; half of that is ours."""
_KB = 1e3


@dataclass(frozen=True)
class TrainingOptions:
    """How much is measured."""

    steps: int = 400
    seeds: int = 1
    language_steps: int = 0
    """0: characters are not learned."""


def measure_training(options: TrainingOptions, steps: Steps) -> list[Row]:
    """A row for each method."""
    rows = []
    for codec, feedback in METHODS:
        steps.case(f"digits with {codec}, error feedback {feedback}")
        rows.append(learn_digits(codec, feedback, options))
        steps.step()
    if options.language_steps:
        for codec, feedback in LANGUAGE_METHODS:
            steps.case(f"characters with {codec}, error feedback {feedback}")
            learned = learn_language(codec, feedback, options.language_steps)
            rows.append(
                _row(
                    LANGUAGE, codec, feedback, learned.sent_bytes / learned.workers, learned.figures
                )
            )
            steps.step()
    for table in TABLES:
        _compare([row for row in rows if row["part"] == table])
    return rows


def expected_steps(options: TrainingOptions) -> int:
    """How often measure_training() says that it has got further."""
    return len(METHODS) + (len(LANGUAGE_METHODS) if options.language_steps else 0)


def learn_digits(codec: str, feedback: str, options: TrainingOptions) -> Row:
    """One row, of means over the seeds."""
    runs = [Learning(codec, feedback, seed) for seed in range(options.seeds)]
    for run in runs:
        run.run(options.steps)
    accuracies = [run.accuracy for run in runs]
    figures = {
        "accuracy": statistics.mean(accuracies),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "loss": statistics.mean(run.loss for run in runs),
    }
    sent = statistics.mean(run.uplinks.sent_bytes for run in runs) / WORKERS
    return _row(LEARNING, codec, feedback, sent, figures)


def _row(
    table: str, codec: str, feedback: str, sent_bytes: float, figures: dict[str, float]
) -> Row:
    return {
        "part": table,
        "codec": codec,
        "error_feedback": feedback,
        **figures,
        "sent_kb_per_worker": sent_bytes / _KB,
    }


def _compare(rows: Sequence[Row]) -> None:
    """Set what each sent beside what was sent dense."""
    for row in rows:
        row["times_fewer_bytes"] = rows[0]["sent_kb_per_worker"] / row["sent_kb_per_worker"]


def training_budgets(rows: Sequence[Row]) -> list[Budget]:
    """That few elements are enough if they are the largest and nothing is lost."""
    at = {(row["codec"], row["error_feedback"]): row for row in rows if row["part"] == LEARNING}
    accuracy = {key: row["accuracy"] for key, row in at.items()}
    found = [
        Budget(
            f"{codec}, accuracy lost against dense",
            accuracy[DENSE, "none"] - accuracy[codec, "ef"],
            LOST_MAX,
            "of the test set",
            "<=",
        )
        for codec in HUNDREDTH[:2]
    ]
    return [
        *found,
        Budget(
            f"{THOUSANDTH[2]}, accuracy lost against {THOUSANDTH[0]}",
            accuracy[THOUSANDTH[0], "ef"] - accuracy[THOUSANDTH[2], "ef"],
            RANDOM_LOST_MIN,
            "of the test set",
            ">=",
        ),
        Budget(
            f"{HUNDREDTH[0]} without error feedback, accuracy lost",
            accuracy[HUNDREDTH[0], "ef"] - accuracy[HUNDREDTH[0], "none"],
            0.0,
            "of the test set",
            ">=",
        ),
        Budget(
            f"{THOUSANDTH[0]} without error feedback, accuracy lost",
            accuracy[THOUSANDTH[0], "ef"] - accuracy[THOUSANDTH[0], "none"],
            FORGETFUL_LOST_MIN,
            "of the test set",
            ">=",
        ),
        Budget(
            f"{EXACT} against dense",
            at[EXACT, "ef"]["times_fewer_bytes"],
            FEWER_EXACT_MIN,
            "times fewer bytes",
            ">=",
        ),
        Budget(
            f"{HUNDREDTH[0]} against dense",
            at[HUNDREDTH[0], "ef"]["times_fewer_bytes"],
            FEWER_MIN,
            "times fewer bytes",
            ">=",
        ),
    ]
