"""`manyhands bench averaging`: one round of several processes on loopback, beside gloo."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from tools.bench.processes import RivalFailed, Worker
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = (
    "rival",
    "peers",
    "elements",
    "step_seconds_median",
    "step_seconds_min",
    "step_seconds_max",
    "cpu_seconds_per_round",
    "error_max",
)
RATIO_MAX = 3.5
"""Of our round to gloo's, over standard Noise."""
_ROUND_S_MAX = 120.0


@dataclass(frozen=True)
class AveragingOptions:
    """How much is measured."""

    peers: int = 4
    elements: int = 1_000_000
    rounds: int = 5


def run_averaging(options: AveragingOptions, steps: Steps) -> Report:
    """Measure ours, then gloo."""
    report = Report("averaging", COLUMNS)
    rivals = ("manyhands", "gloo")
    steps.expect(len(rivals))
    for rival in rivals:
        steps.case(f"{rival}: {options.peers} peers, {options.elements} elements")
        try:
            report.rows.append(_measure(rival, options))
        except RivalFailed as exc:
            report.skip(rival, str(exc))
        steps.step()
    report.budgets = budgets(report.rows)
    return report


def _measure(rival: str, options: AveragingOptions) -> Row:
    """Start the peers of one rival, let them find each other through our pipes, gather results."""
    with ExitStack() as stack:
        workers = []
        for rank in range(options.peers):
            worker = Worker(f"{rival} peer {rank}", "tools.bench.averaging_worker", rival)
            stack.callback(worker.end)
            worker.tell(rank=rank, **asdict(options))
            workers.append(worker)
        hellos = [worker.answer()["hello"] for worker in workers]
        for worker in workers:
            worker.tell(hellos=hellos)
        timeout_s = _ROUND_S_MAX * (options.rounds + 1)
        results = [worker.answer(timeout_s=timeout_s) for worker in workers]
        # Each leaves by itself: a peer that is killed may be missed by one that still works.
        for worker in workers:
            worker.tell(leave=True)
        for worker in workers:
            worker.answer()
    # A round is over when its slowest peer has finished.
    steps_s = [max(times) for times in zip(*(result["steps_s"] for result in results), strict=True)]
    return {
        "rival": rival,
        "peers": options.peers,
        "elements": options.elements,
        "rounds": options.rounds,
        "step_seconds_median": statistics.median(steps_s),
        "step_seconds_min": min(steps_s),
        "step_seconds_max": max(steps_s),
        "cpu_seconds_per_round": sum(result["cpu_s"] for result in results) / options.rounds,
        "error_max": max(result["error_max"] for result in results),
    }


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the promise if both were measured."""
    if len(rows) < 2:
        return []
    ours, gloo = rows
    name = f"round of {ours['peers']} × {ours['elements']} float32 against gloo"
    ratio = ours["step_seconds_median"] / gloo["step_seconds_median"]
    return [Budget(name, ratio, RATIO_MAX, "times as long", "<=")]
