"""Simulated swarms on digits: how strategies compare, and what their exchanges send."""

from __future__ import annotations

import numpy as np
import pytest

from training.strategies import ElasticAveraging, LeaderSGD, LocalSGD, Strategy
from training.strategies.simulate import Simulation, Traffic
from training.strategies.tasks import digits_task

WORKERS = 4
LEADER = LeaderSGD(every=8, every_of_swarm=16, groups=2)


def swarm_on_digits(strategy: Strategy, seed: int, *, same: bool) -> Simulation:
    task = digits_task(workers=WORKERS, seed=seed)
    starts = [task.start(100 * seed + (0 if same else w)) for w in range(WORKERS)]
    return Simulation(strategy, task, starts, rate=0.1)


@pytest.mark.slow
def test_from_different_starts_a_leader_breaks_the_symmetry_that_a_centre_keeps() -> None:
    losses: dict[str, list[float]] = {"leader": [], "elastic": []}
    for seed in range(3):
        task = digits_task(workers=WORKERS, seed=seed)
        for name, strategy in (("leader", LEADER), ("elastic", ElasticAveraging(every=8))):
            swarm = swarm_on_digits(strategy, seed, same=False)
            swarm.run(100)
            losses[name].append(task.train_loss(swarm.mean()))
    assert np.mean(losses["leader"]) < 0.7 * np.mean(losses["elastic"])


@pytest.mark.slow
def test_from_one_start_leading_is_as_good_as_averaging_and_every_worker_leads() -> None:
    accuracies: dict[str, list[float]] = {"leader": [], "local": []}
    published = {}
    for seed in range(3):
        task = digits_task(workers=WORKERS, seed=seed)
        for name, strategy in (("leader", LEADER), ("local", LocalSGD(every=8))):
            swarm = swarm_on_digits(strategy, seed, same=True)
            swarm.run(300)
            accuracies[name].append(task.accuracy(swarm.mean()))
            published[name] = swarm.traffic.published
            if name == "leader":
                assert set(swarm.leaders) == set(range(WORKERS)), "every worker leads"
    assert np.mean(accuracies["leader"]) > np.mean(accuracies["local"]) - 0.01
    assert 3 * published["leader"] <= published["local"]


def test_a_mean_is_counted_as_a_butterfly() -> None:
    traffic = Traffic()
    traffic.on_mean(1000, members=4, contributors=4)
    assert (traffic.exchanges, traffic.published) == (1, 8)
    assert traffic.sent_bytes == 4 * 2 * 1000 * 3 / 4
    assert traffic.busiest_bytes == 2 * 1000 * 3 / 4
    assert traffic.seconds(12_000.0) == pytest.approx(1.0)
    # Two of four contribute; all receive.
    traffic.on_mean(1000, members=4, contributors=2)
    assert traffic.sent_bytes == 6000 + (2 + 4) * 1000 * 3 / 4


def test_a_leader_sends_to_each_follower_by_itself() -> None:
    traffic = Traffic()
    traffic.on_leaders(1000, [3, 1])
    assert (traffic.exchanges, traffic.published) == (1, 2)
    assert traffic.sent_bytes == 4000
    assert traffic.busiest_bytes == traffic.peak_bytes == 3000
