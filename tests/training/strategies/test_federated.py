"""LocalOptimizer of federated clients: who is drawn, who sits out, and corrected gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.training.strategies.test_optimizer import parameters_of
from tests.training.test_optimizer import Trainer, backward, make_model, momentum
from training import StepReport, Swarm, join
from training.strategies import FederatedAveraging, FedProx, Scaffold
from training.strategies.optimizer import LocalOptimizer


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    with join("test") as swarm:
        yield swarm


@pytest.mark.slow
def test_who_is_not_drawn_takes_no_step() -> None:
    """Two peers of whom one is drawn: the other's parameters move by exchanges only."""
    strategy = FederatedAveraging(every=2, fraction=0.5)
    went: list[bool] = []

    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model()
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
        trainer.ready.set()
        while not trainer.ended.is_set():
            step_or_sit_out(optimizer, model, 0)

    def step_or_sit_out(optimizer: LocalOptimizer, model: nn.Module, number: int) -> StepReport:
        if not optimizer.trains:
            return optimizer.sit_out()
        backward(model, number)
        report = optimizer.step(samples=8)
        optimizer.zero_grad()
        return report

    model = make_model()
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
        # From now on only steps decide who is drawn.
        optimizer.synchronize()
        number = 0
        while len(swarm.peers) < 2 or number < 20:
            drawn, before = optimizer.trains, parameters_of(model)
            report = step_or_sit_out(optimizer, model, number)
            moved = not torch.equal(before, parameters_of(model))
            if not report.stepped and not report.caught_up:
                assert moved == drawn
            went.append(drawn)
            number += 1
    assert set(went) == {True, False}, "each is drawn at times"


def test_sitting_out_is_for_those_who_are_not_drawn(swarm: Swarm) -> None:
    model = make_model()
    strategy = FederatedAveraging(every=2)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
    before = parameters_of(model)
    assert optimizer.trains, "alone it is drawn each time"
    for _ in range(3):
        assert not optimizer.sit_out().stepped
    assert torch.equal(before, parameters_of(model))
    assert optimizer.global_step == 0


def test_scaffold_corrects_gradients_for_any_inner_optimizer(swarm: Swarm) -> None:
    """Alone the own and the common direction are one: it steps as the wrapped optimizer does."""
    model, plain_model = make_model(), make_model()
    plain = momentum(plain_model)
    strategy = Scaffold(every=2, fraction=1.0)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
    for number in range(6):
        backward(model, number)
        backward(plain_model, number)
        optimizer.step(samples=8)
        plain.step()
        optimizer.zero_grad()
        plain.zero_grad()
    torch.testing.assert_close(parameters_of(model), parameters_of(plain_model))
    assert optimizer.global_step == 3


def test_fedprox_pulls_local_steps_to_the_anchor(swarm: Swarm) -> None:
    model = make_model()
    start = parameters_of(model).clone()
    strategy = FedProx(every=50, fraction=1.0, proximal=0.5)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = swarm.optimizer(sgd, model=model, strategy=strategy)
    expected = start.clone()
    for number in range(3):
        backward(model, number)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
        expected = expected - 0.1 * (gradient + 0.5 * (expected - start))
        optimizer.step(samples=8)
        optimizer.zero_grad()
    torch.testing.assert_close(parameters_of(model), expected)
