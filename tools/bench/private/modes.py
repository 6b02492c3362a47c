"""All ways to learn in one table: accuracy, what a client computes and moves, what others see.

Source of the question: Vepakomma, Swedish, Raskar, Gupta, Dubey, "No Peek: A Survey of private
distributed deep learning", 2018. The survey gives words for most of it; here each is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from averaging import ExtraMissing
from tools.bench.private import aggregating, splitting
from tools.bench.private.aggregating import (
    CENTRAL,
    ENCRYPTED,
    FEDAVG,
    LARGE_BATCH,
    MASKED,
    UNEQUAL,
)
from tools.bench.private.dp import EPSILONS, mean_row, private_name
from tools.bench.private.frame import CLIENTS, Frame
from tools.bench.private.nopeek import digits
from tools.bench.private.splitting import ASKED, NOPEEK, SPLIT, U_SPLIT, VERTICAL
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row

COLUMNS = (
    "mode",
    "accuracy",
    "client_mflops",
    "client_kb",
    "formula_kb",
    "seconds",
    "attack_error",
    "attack_error_alone",
    "seen",
)
MODES = (
    *(CENTRAL, LARGE_BATCH, FEDAVG, UNEQUAL, MASKED, ENCRYPTED),
    *(SPLIT, U_SPLIT, NOPEEK, VERTICAL),
    *(private_name(epsilon) for epsilon in EPSILONS),
    ASKED,
)
ALIKE = (CENTRAL, LARGE_BATCH, SPLIT, U_SPLIT, MASKED, ENCRYPTED)
"""They should reach the same."""
SPREAD_MAX = 0.02
AVERAGED = (LARGE_BATCH, FEDAVG, UNEQUAL)
"""Their means are made in the clear, by a butterfly."""
BYTES_OFF_MAX = 0.001
NOPEEK_ERROR_RATIO_MIN = 1.2
"""With a shorter training, and by the best of three attacks; see the part nopeek for its own."""


@dataclass(frozen=True)
class ModesOptions:
    """How much is measured."""

    passes: int = 30
    """Of each client over its data."""
    seeds: int = 2
    """Means of so many runs."""


def run_modes(
    options: ModesOptions, steps: Steps, skip: Callable[[str, str], None]
) -> tuple[list[Row], list[Budget]]:
    """Learn in each mode, and judge.

    Args:
        steps: told what is measured; each of MODES is a step.
        skip: told which mode cannot be measured here, and why.
    """
    rows = []
    frames = [Frame(digits(), options.passes, seed) for seed in range(options.seeds)]
    for mode in MODES:
        steps.case(mode)
        try:
            rows.append(mean_row([measure(mode, frame) for frame in frames]))
        except ExtraMissing as exc:
            skip(mode, str(exc))
        steps.step()
    return rows, budgets(rows)


def measure(mode: str, frame: Frame) -> Row:
    """One row of one run; raises ExtraMissing."""
    if mode == CENTRAL:
        return aggregating.central(frame)[0]
    if mode == LARGE_BATCH:
        return aggregating.large_batch(frame)
    if mode in (FEDAVG, UNEQUAL, MASKED, ENCRYPTED):
        return aggregating.federated(frame, mode)
    if mode in (SPLIT, U_SPLIT, NOPEEK):
        return splitting.split(frame, mode)
    if mode == VERTICAL:
        return splitting.vertical(frame)
    if mode == ASKED:
        return splitting.asked(frame, aggregating.central(frame)[1])
    (epsilon,) = (one for one in EPSILONS if private_name(one) == mode)
    return aggregating.noisy(frame, epsilon)


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the order that is expected, and what sums and answers may be off."""
    found = {row["mode"]: row for row in rows}
    accuracy = {mode: float(row["accuracy"]) for mode, row in found.items()}
    alike = [accuracy[mode] for mode in ALIKE if mode in accuracy]
    best_noisy = max(accuracy[private_name(epsilon)] for epsilon in EPSILONS)
    part = "of the test set"
    return [
        Budget(
            "central, large batch, split, U-split, hidden sums: apart",
            max(alike) - min(alike),
            SPREAD_MAX,
            part,
            "<=",
        ),
        Budget(
            "the least of these above unequal data", min(alike) - accuracy[UNEQUAL], 0, part, ">="
        ),
        Budget("unequal data above DP-SGD", accuracy[UNEQUAL] - best_noisy, 0, part, ">="),
        Budget(
            "means in the clear: bytes against the butterfly's 4(K − 1)N/K",
            max(_bytes_off(found[mode]) for mode in AVERAGED),
            BYTES_OFF_MAX,
            "of them",
            "<=",
        ),
        *(
            Budget(f"{mode}: error / tolerance", row["error_per_tolerance"], 1, "times", "<=")
            for mode, row in found.items()
            if "error_per_tolerance" in row
        ),
        Budget(
            "NoPeek: error of the best of three attacks",
            found[NOPEEK]["attack_error"] / found[SPLIT]["attack_error"],
            NOPEEK_ERROR_RATIO_MIN,
            "times that without",
            ">=",
        ),
        Budget(
            "private inference: the same class as in the clear",
            found[ASKED]["same_as_plain"],
            1,
            "of samples",
            ">=",
        ),
    ]


def _bytes_off(row: Row) -> float:
    """How far a client's measured bytes are from a butterfly's, as a part of these.

    By the formula, with a server, it is two vectors a round. In a butterfly of K it sends all but
    its own span of its vector, and its span of the mean to all others; it receives as much.
    """
    butterfly_kb = 2 * (CLIENTS - 1) / CLIENTS * float(row["formula_kb"])
    return abs(float(row["client_kb"]) / butterfly_kb - 1)
