"""One of the paper's swarms at full size, simulated: how long its steps take (core)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.dedloc_setups import ELEMENTS, HIGH, VARYING, Cost, Setup, cost_of, download_s
from tools.bench.dedloc_swarm import Step, Swarm, SwarmRules, Trainer
from tools.bench.report import Row
from training import SwarmConfig

SYNCHRONOUS, DELAYED = "simulated, synchronous", "simulated, delayed updates"
TRANSFER_ONLY = "simulated, transfer alone"
DAY_PARTS = 96
"""In which the samples of a run are counted: a quarter of an hour of a day each."""
_HOUR_S = 3600.0
# Who is there only sometimes comes within so much of its time: ten minutes of eight hours.
_COMING_PART = 1 / 48


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the paper does not say, or says of its own machines."""

    samples_per_s: float = 8.0
    """Of one T4 with sequences of 512 tokens, alike for all; the paper gives no number."""
    global_batch: int = 4096
    """Source: the paper's experiments with ALBERT."""
    micro_batch: int = 16
    """Samples between two looks at the swarm: several passes of what fits into a T4."""
    accept_fraction: float = SwarmConfig.accept_fraction
    matchmaking_s: float = 1.0
    """Finding a group over the internet: some round trips."""
    latency_s: float = 0.05
    jitter: float = 0.05
    elements: int = ELEMENTS
    steps: int = 20
    """Of each setup in which nobody comes or goes."""
    hours: float = 24.0
    """Of the one in which peers do."""
    seed: int = 0

    def rules(self, *, delayed: bool) -> SwarmRules:
        """As the swarm wants them."""
        return SwarmRules(
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            accept_fraction=self.accept_fraction,
            matchmaking_s=self.matchmaking_s,
            latency_s=self.latency_s,
            jitter=self.jitter,
            delayed=delayed,
        )


def simulate(setup: Setup, how: str, assumed: Assumptions) -> Row:
    """One setup at full size."""
    trainers, mbit = trainers_of(setup, assumed)

    def cost(present: Sequence[Trainer]) -> Cost:
        rates = tuple(sorted((mbit[one.name] for one in present), reverse=True))
        return cost_of(rates, setup.helpers(), balanced=setup.balanced, elements=assumed.elements)

    rules = assumed.rules(delayed=how == DELAYED)
    swarm = Swarm(
        trainers, rules, lambda present: cost(present).transfer.seconds, seed=assumed.seed
    )
    if setup is VARYING:
        taken = swarm.run(assumed.hours * _HOUR_S)
    else:
        taken = swarm.run_steps(assumed.steps)
    costs = [cost(step.members) for step in taken]
    theory_s = [theory(step, one, setup, rules) for step, one in zip(taken, costs, strict=True)]
    over_at_s = taken[-1].over_at_s
    samples = sum(step.samples for step in taken)
    row = transfer_row(
        setup.name,
        how,
        peers=max(len(step.members) for step in taken),
        helpers=len(setup.helpers()),
        transfer_s=_mean([step.transfer_s for step in taken]),
        planned_s=_mean([one.planned_s for one in costs]),
        optimum_s=_mean([one.optimum_s for one in costs]),
    )
    return row | {
        "steps": len(taken),
        "step_seconds": over_at_s / len(taken),
        "computing_seconds": _mean([step.computing_s for step in taken]),
        "gathering_seconds": _mean([step.gathering_s for step in taken]),
        "theory_step_seconds": _mean(theory_s),
        "step_per_theory": over_at_s / sum(theory_s),
        "samples_per_s": samples / over_at_s,
        "gpu_seconds_per_sample": _gpu_s(trainers, over_at_s) / samples,
        "samples_per_s_over_time": over_time(taken, over_at_s),
    }


def simulate_transfer(setup: Setup, assumed: Assumptions) -> Row:
    """What averaging takes in a setup, and nothing else."""
    rates = tuple(mbit for mbit, _ in setup.rates())
    cost = cost_of(rates, setup.helpers(), balanced=setup.balanced, elements=assumed.elements)
    return transfer_row(
        setup.name,
        TRANSFER_ONLY,
        peers=len(rates),
        helpers=len(setup.helpers()),
        transfer_s=cost.transfer.seconds,
        planned_s=cost.planned_s,
        optimum_s=cost.optimum_s,
    )


def transfer_row(
    setup: str,
    how: str,
    *,
    peers: int,
    helpers: int,
    transfer_s: float,
    planned_s: float,
    optimum_s: float,
) -> Row:
    """What every row says, simulated or measured."""
    return {
        "setup": setup,
        "how": how,
        "peers": peers,
        "auxiliary_peers": helpers,
        "transfer_seconds": transfer_s,
        "planned_seconds": planned_s,
        "optimum_seconds": optimum_s,
        "transfer_per_optimum": transfer_s / optimum_s,
    }


def trainers_of(setup: Setup, assumed: Assumptions) -> tuple[list[Trainer], dict[str, float]]:
    """The setup's trainers, and what their links carry.

    Who is there only sometimes comes after a third of the time and leaves after two, not all in the
    same minute; it takes part when it has downloaded the state.
    """
    rng = random.Random(assumed.seed)
    third_s = assumed.hours * _HOUR_S / 3
    trainers: list[Trainer] = []
    mbit: dict[str, float] = {}
    for number, (rate, sometimes) in enumerate(setup.rates()):
        name = f"trainer-{number:02d}"
        mbit[name] = rate
        comes_at_s, leaves_at_s = 0.0, None
        if sometimes:
            late_s = rng.uniform(0, third_s * _COMING_PART)
            comes_at_s = third_s + late_s + download_s(rate, assumed.elements)
            leaves_at_s = 2 * third_s + late_s
        trainers.append(Trainer(name, assumed.samples_per_s, comes_at_s, leaves_at_s))
    return trainers, mbit


def theory(step: Step, cost: Cost, setup: Setup, rules: SwarmRules) -> float:
    """What a step takes at least: the batch at full speed, and the best transfer of its split."""
    compute_s = rules.global_batch / sum(one.samples_per_s for one in step.members)
    transfer_s = cost.optimum_s if setup.balanced else cost.planned_s
    return max(compute_s, transfer_s) if rules.delayed else compute_s + transfer_s


def over_time(taken: Sequence[Step], over_at_s: float, parts: int = DAY_PARTS) -> list[float]:
    """Samples a second in each of so many equal parts of the time; a step's are spread over it."""
    part_s = over_at_s / parts
    samples = [0.0] * parts
    begun_s = 0.0
    for step in taken:
        for number in range(int(begun_s / part_s), parts):
            begins_s, ends_s = number * part_s, (number + 1) * part_s
            if begins_s >= step.over_at_s:
                break
            shared_s = min(ends_s, step.over_at_s) - max(begins_s, begun_s)
            samples[number] += step.samples * max(shared_s, 0.0) / (step.over_at_s - begun_s)
        begun_s = step.over_at_s
    return [count / part_s for count in samples]


def _gpu_s(trainers: Sequence[Trainer], until_s: float) -> float:
    """GPU seconds that a run has had, waiting included, since each had the state."""
    return sum(
        max(min(until_s, one.leaves_at_s or until_s) - one.comes_at_s, 0.0) for one in trainers
    )


def add_relative_costs(rows: Sequence[Row]) -> None:
    """GPU time for each sample, in that of the swarm with a fast network."""
    base = {row["how"]: row["gpu_seconds_per_sample"] for row in rows if row["setup"] == HIGH.name}
    for row in rows:
        if row["how"] in base:
            row["gpu_time_per_sample"] = row["gpu_seconds_per_sample"] / base[row["how"]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
