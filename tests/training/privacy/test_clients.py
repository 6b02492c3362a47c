"""Private clients: what they offer, what it costs, and that they still learn together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from averaging import AveragerConfig
from tests.training.strategies.quadratic import Quadratic
from training import LocalOptimizer, Swarm, SwarmConfig, join
from training.errors import PrivacyBudgetExhausted
from training.privacy import NoiseShares, epsilon_of
from training.privacy.clients import PrivateClients, PrivateTactic, clipped
from training.strategies import ElasticAveraging, FederatedAveraging, FedProx, LocalSGD
from training.strategies.simulate import Simulation
from training.strategies.strategy import Exchange

FEDERATED = FederatedAveraging(every=3, fraction=0.5)
SHARES = NoiseShares(peers=4, tolerated_drops=1)


def private(
    noise_multiplier: float = 1.0, *, epsilon: float = 1e9, **options: object
) -> PrivateClients:
    settings = {"strategy": LocalSGD(every=2), "clip": 0.5, "entropy": random.Random(0).randbytes}
    return PrivateClients(
        noise_multiplier=noise_multiplier,
        epsilon=epsilon,
        **(settings | options),  # type: ignore[arg-type]
    )


def trained(strategy: PrivateClients, elements: int) -> PrivateTactic:
    tactic = strategy.begin(np.zeros(elements), me="me")
    assert isinstance(tactic, PrivateTactic)
    tactic.on_interval(0)
    tactic.on_local_step(samples=32)
    return tactic


def test_an_update_is_cut_to_just_the_bound() -> None:
    update = np.array([3.0, -4.0], np.float32)
    np.testing.assert_allclose(clipped(update, 0.5), [0.3, -0.4], rtol=1e-12)
    np.testing.assert_array_equal(clipped(update, 7.0), update)
    assert clipped(np.zeros(2), 1.0).tolist() == [0, 0]
    for wrong in (np.nan, np.inf):
        assert clipped(np.array([1.0, wrong]), 1.0).tolist() == [0, 0]


def test_an_offer_is_the_cut_update_and_a_share_of_noise() -> None:
    elements = 40_000
    tactic = trained(private(2.0, shares=SHARES), elements)
    update = np.full(elements, 1.0)
    offer = tactic.offer(Exchange.MEAN, -update)
    assert offer.weight == 1.0, "how many samples it has is its own affair"
    noise = offer.vector_O - 0.5 / sqrt(elements)
    assert stats.kstest(noise, "norm", args=(0.0, 2.0 * 0.5 / sqrt(3))).pvalue > 0.01


def test_the_mean_has_at_least_the_stated_noise_when_clients_drop_out() -> None:
    for present in (3, 4):
        strategy = private(2.0, shares=SHARES)
        offers = [
            trained(strategy, 40_000).offer(Exchange.MEAN, np.zeros(40_000)).vector_O
            for _ in range(present)
        ]
        total = np.sum(offers, axis=0)
        assert total.std() > 0.98 * 2.0 * 0.5
        actual = 2.0 * 0.5 * sqrt(present / 3)
        assert stats.kstest(total, "norm", args=(0.0, actual)).pvalue > 0.01


def test_each_offer_is_paid_for_and_too_few_clients_cost_more() -> None:
    tactic = trained(private(2.0, shares=SHARES), 3)
    for offers in (1, 2):
        tactic.offer(Exchange.MEAN, np.zeros(3))
        assert tactic.budget.spent == epsilon_of(
            rate=1.0, noise_multiplier=2.0, steps=offers, delta=1e-5
        )
    tactic.on_contributors(3)
    before = tactic.budget.spent
    tactic.offer(Exchange.MEAN, np.zeros(3))
    tactic.on_contributors(2)
    assert tactic.budget.steps == 3
    assert tactic.budget.spent > before
    tactic.budget.correct(rate=1.0, noise_multiplier=2.0 * sqrt(2 / 3), actual=2.0)
    assert tactic.budget.spent == epsilon_of(rate=1.0, noise_multiplier=2.0, steps=3, delta=1e-5), (
        "it was the multiplier of two shares of three"
    )


def test_nothing_is_offered_while_too_few_are_drawn_to_hide_each_other() -> None:
    tactic = private(strategy=FEDERATED, shares=SHARES).begin(np.zeros(3), me="0")
    tactic.on_interval(0)
    assert isinstance(tactic, PrivateTactic)
    tactic.on_peers([str(name) for name in range(6)])
    assert tactic.too_few() is None
    tactic.on_peers([str(name) for name in range(4)])
    reason = tactic.too_few()
    assert reason is not None
    assert reason.startswith("3 shares make up the whole noise, and 2 peers train")


def test_who_was_not_drawn_pays_nothing_and_gives_nothing() -> None:
    swarm = Simulation(private(strategy=FEDERATED), Quadratic((8, 8, 8, 8)), [np.ones(7)] * 4, 0.05)
    swarm.run(9)
    times = [0] * 4
    for number in range(3):
        for name in FEDERATED.lottery.drawn(number, swarm.names):
            times[int(name)] += 1
    paid = [tactic.budget.steps for tactic in swarm.tactics if isinstance(tactic, PrivateTactic)]
    assert paid == times
    assert sum(times) == 6


@pytest.mark.parametrize("inner", [FEDERATED, FedProx(every=3, fraction=0.5)])
def test_with_little_noise_and_no_cutting_it_is_the_strategy_inside(
    inner: FederatedAveraging | FedProx,
) -> None:
    task, starts = Quadratic((8, 8, 8, 8)), [np.ones(7)] * 4
    plain = Simulation(inner, task, starts, 0.05)
    hidden = Simulation(
        private(1e-12, strategy=inner, clip=1e3, epsilon=np.inf), task, starts, 0.05
    )
    for swarm in (plain, hidden):
        swarm.run(12)
    np.testing.assert_allclose(hidden.parameters[0], plain.parameters[0], atol=1e-6)


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    with join("private-clients") as swarm:
        yield swarm


def test_a_peer_stops_before_the_exchange_it_cannot_pay_for(swarm: Swarm) -> None:
    limit = epsilon_of(rate=1.0, noise_multiplier=4.0, steps=2, delta=1e-5)
    model = nn.Linear(3, 2)
    optimizer = swarm.optimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        model=model,
        strategy=private(4.0, epsilon=limit),
    )
    assert isinstance(optimizer, LocalOptimizer)
    assert optimizer.budget is not None

    def step() -> None:
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step(samples=4)
        optimizer.zero_grad()

    for _ in range(5):
        step()
    assert (optimizer.global_step, optimizer.budget.spent) == (2, limit)
    shared = optimizer.state_hash()
    with pytest.raises(PrivacyBudgetExhausted):
        step()
    assert (optimizer.global_step, optimizer.state_hash()) == (2, shared)


def test_an_exchange_waits_until_enough_share_the_noise() -> None:
    config = SwarmConfig(averager=AveragerConfig(group_size_min=3))
    model = nn.Linear(3, 2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = private(4.0, shares=SHARES)
    with join("private-clients", config=config) as swarm:
        optimizer = swarm.optimizer(sgd, model=model, strategy=strategy)
        for _ in range(2):
            model(torch.ones(4, 3)).square().mean().backward()
            report = optimizer.step(samples=4)
        assert report.failure.startswith("3 shares make up the whole noise")
        assert optimizer.budget is not None
        assert optimizer.budget.steps == 0, "nothing was given away"
    with (
        join("private-clients") as swarm,
        pytest.raises(ValueError, match=r"3 shares .* with 1: .*group_size_min=3\)"),
    ):
        swarm.optimizer(sgd, model=model, strategy=strategy)


def test_buffers_that_would_travel_without_noise_are_refused(swarm: Swarm) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"running means of batch norm.*nn\.GroupNorm"):
        swarm.optimizer(sgd, model=model, strategy=private())


def test_options_that_promise_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="not ElasticAveraging"):
        private(strategy=ElasticAveraging())
    for wrong in ({"clip": 0.0}, {"noise_multiplier": 0.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            private(**wrong)  # type: ignore[arg-type]
    # What is each peer's own does not tell peers apart.
    assert repr(private()) == repr(private(entropy=random.Random(1).randbytes))
