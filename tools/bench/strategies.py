"""`manyhands bench strategies`: what each strategy learns from as many samples, and what it sends.

Workers in this process train on digits, each on a shard of its own; the parts that decide are those
that peers run, and what they would send is counted. Nothing is timed: the seconds are those that
the busiest peer's bytes take on a link of some rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from training.strategies import (
    DiLoCo,
    ElasticAveraging,
    FederatedAveraging,
    FedProx,
    LeaderSGD,
    LocalSGD,
    Scaffold,
    Strategy,
    StreamingDiLoCo,
)
from training.strategies.landscapes import DoubleWell, MatrixCompletion
from training.strategies.simulate import Simulation
from training.strategies.strategy import Vector
from training.strategies.tasks import ClassifierTask, digits_task

COLUMNS = (
    "strategy",
    "start",
    "rate",
    "loss_at_third",
    "loss",
    "test_accuracy",
    "exchanges",
    "published",
    "sent_kb_per_peer",
    "seconds_at_20_mbit",
    "seconds_at_100_mbit",
)
SYNC, LOCAL, ELASTIC, LEADER, DILOCO = "each step", "local SGD", "elastic", "leader", "DiLoCo"
STREAMING, FEDERATED = "streaming DiLoCo", "federated"
FEDPROX, SCAFFOLD = "FedProx", "SCAFFOLD"
STRATEGIES: dict[str, Strategy] = {
    SYNC: LocalSGD(every=1),
    LOCAL: LocalSGD(every=8),
    ELASTIC: ElasticAveraging(every=8),
    LEADER: LeaderSGD(every=8, every_of_swarm=16, groups=2),
    FEDERATED: FederatedAveraging(every=8, fraction=0.5),
    FEDPROX: FedProx(every=8, fraction=0.5),
    SCAFFOLD: Scaffold(every=8, fraction=0.5),
    DILOCO: DiLoCo(every=25),
    STREAMING: StreamingDiLoCo(every=24, fragments=4, delay=3),
}
SAME, DIFFERENT = "same", "different"
SLOW, FAST = 0.1, 0.8
CASES = ((SAME, SLOW), (SAME, FAST), (DIFFERENT, SLOW))
MBIT = 1e6
LOSS_RATIO_MAX, ACCURACY_LOST_MAX, PUBLISHED_RATIO_MIN = 0.7, 0.01, 3.0
"""Of Leader SGD: against elastic averaging from different starts, against local SGD from one."""
SENT_RATIO_MAX = 0.7
"""Of its bytes against elastic averaging's, where each download counts."""
COMPLETION_RATIO_MIN, SLOPE_MAX = 100.0, 1e-10
DILOCO_SENT_RATIO_MIN = 20.0
DILOCO_ACCURACY_LOST_MAX = 0.02
"""At its better rate, since momentum in the outer step is as good as a larger rate in the inner."""


@dataclass(frozen=True)
class StrategiesOptions:
    """How much is measured."""

    workers: int = 4
    steps: int = 300
    """Local steps of each worker; where half of them are drawn, twice as many."""
    seeds: int = 3


def run_strategies(options: StrategiesOptions, steps: Steps) -> Report:
    """Simulate each strategy in each case, and the landscapes."""
    report = Report("strategies", COLUMNS)
    steps.expect(len(STRATEGIES) * len(CASES) + 2)
    for start, rate in CASES:
        for name in STRATEGIES:
            steps.case(f"{name}, {start} start, rate {rate}")
            report.rows.append(measure(name, start, rate, options))
            steps.step()
    steps.case("matrix completion")
    ratio = min(completion_ratio(seed) for seed in range(options.seeds))
    steps.step()
    steps.case("double well")
    slope = leader_slope()
    steps.step()
    report.budgets = [
        *budgets(report.rows),
        Budget(
            "matrix completion: elastic's worst worker against leader's",
            ratio,
            COMPLETION_RATIO_MIN,
            "times its loss",
            ">=",
        ),
        Budget("double well: the slope where the leader rests", slope, SLOPE_MAX, "", "<="),
    ]
    return report


def measure(name: str, start: str, rate: float, options: StrategiesOptions) -> Row:
    """One row: means over the seeds."""
    runs = [_run(name, start, rate, seed, options) for seed in range(options.seeds)]
    row: Row = {"strategy": name, "start": start, "rate": rate}
    row |= {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    return row


def _run(
    name: str, start: str, rate: float, seed: int, options: StrategiesOptions
) -> dict[str, float]:
    strategy, workers = STRATEGIES[name], options.workers
    task = digits_task(workers=workers, seed=seed)
    swarm = Simulation(strategy, task, _starts(task, start, seed, workers), rate)
    drawn = 1.0
    if isinstance(strategy, FederatedAveraging | FedProx | Scaffold):
        drawn = strategy.fraction
    steps = round(options.steps / drawn)
    third = steps // 3
    swarm.run(third)
    loss_at_third = task.train_loss(swarm.mean())
    swarm.run(steps - third)
    traffic = swarm.traffic
    return {
        "loss_at_third": loss_at_third,
        "loss": task.train_loss(swarm.mean()),
        "test_accuracy": task.accuracy(swarm.mean()),
        "samples": float(sum(task.samples(w, 0) for w in range(workers)) * steps * drawn),
        "exchanges": traffic.exchanges,
        "published": traffic.published,
        "sent_kb_per_peer": traffic.sent_bytes / workers / 1e3,
        "peak_kb": traffic.peak_bytes / 1e3,
        "seconds_at_20_mbit": traffic.seconds(20 * MBIT),
        "seconds_at_100_mbit": traffic.seconds(100 * MBIT),
        "refusals": swarm.refusals,
        "led": len(swarm.leaders),
    }


def _starts(task: ClassifierTask, start: str, seed: int, workers: int) -> list[Vector]:
    seeds = [100 * seed + (worker if start == DIFFERENT else 0) for worker in range(workers)]
    return [task.start(one) for one in seeds]


def completion_ratio(seed: int) -> float:
    """The loss of elastic averaging's worst worker, in that of Leader SGD's, after 50 steps."""
    task = MatrixCompletion(seed)
    starts = [task.start(1000 * seed + worker) for worker in range(8)]
    worst = []
    for strategy in (following_all(0.1), ElasticAveraging(every=1)):
        swarm = Simulation(strategy, task, starts, rate=0.01)
        swarm.run(50)
        worst.append(max(task.loss(x, 0, 0) for x in swarm.parameters))
    return worst[1] / worst[0]


def leader_slope() -> float:
    """How steep the double well is where the leader of two workers comes to rest."""
    rate = 0.01
    task = DoubleWell()
    starts = [np.array([1.2]), np.array([-1.1])]
    swarm = Simulation(following_all(rate / (1 + rate)), task, starts, rate)
    swarm.run(5000)
    return min(float(abs(task.slope(x)[0])) for x in swarm.parameters)


def following_all(pull: float) -> LeaderSGD:
    """Leader SGD without groups or noise: the best of all, after every step."""
    return LeaderSGD(
        every=1, every_of_swarm=1, pull=0.0, pull_of_swarm=pull, losses=1, pull_norm_max=10.0
    )


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge what strategies promise on digits."""
    at = {(row["strategy"], row["start"], row["rate"]): row for row in rows}
    leader, local = at[LEADER, SAME, SLOW], at[LOCAL, SAME, SLOW]
    elastic, sync, diloco = at[ELASTIC, SAME, SLOW], at[SYNC, SAME, SLOW], at[DILOCO, SAME, SLOW]
    apart = (
        at[LEADER, DIFFERENT, SLOW]["loss_at_third"] / at[ELASTIC, DIFFERENT, SLOW]["loss_at_third"]
    )
    return [
        Budget(
            "leader against elastic, different starts, after a third",
            apart,
            LOSS_RATIO_MAX,
            "times its loss",
            "<=",
        ),
        Budget(
            "leader against local SGD, same start: accuracy lost",
            local["test_accuracy"] - leader["test_accuracy"],
            ACCURACY_LOST_MAX,
            "of the test set",
            "<=",
        ),
        Budget(
            "elastic against leader: vectors published",
            elastic["published"] / leader["published"],
            PUBLISHED_RATIO_MIN,
            "times as many",
            ">=",
        ),
        Budget(
            "leader against elastic: bytes sent",
            leader["sent_kb_per_peer"] / elastic["sent_kb_per_peer"],
            SENT_RATIO_MAX,
            "times as many",
            "<=",
        ),
        Budget(
            "workers that led at least once",
            min(leader["led"], at[LEADER, SAME, FAST]["led"]),
            4.0,
            "of 4",
            ">=",
        ),
        Budget(
            "DiLoCo against each step, both at their better rate: accuracy lost",
            _best_accuracy(rows, SYNC) - _best_accuracy(rows, DILOCO),
            DILOCO_ACCURACY_LOST_MAX,
            "of the test set",
            "<=",
        ),
        Budget(
            "each step against DiLoCo: bytes sent",
            sync["sent_kb_per_peer"] / diloco["sent_kb_per_peer"],
            DILOCO_SENT_RATIO_MIN,
            "times as many",
            ">=",
        ),
    ]


def _best_accuracy(rows: Sequence[Row], name: str) -> float:
    return max(
        float(row["test_accuracy"])
        for row in rows
        if row["strategy"] == name and row["start"] == SAME
    )
