"""Local SGD, DiLoCo and federated averaging: what they must equal, and who is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.strategies.quadratic import Quadratic
from training.strategies import DiLoCo, FederatedAveraging, LocalSGD, OuterStep, Strategy
from training.strategies.simulate import Simulation
from training.strategies.strategy import Vector

RATE = 0.05


def simulation(strategy: Strategy, sizes: tuple[int, ...] = (8, 8, 8, 8)) -> Simulation:
    return Simulation(strategy, Quadratic(sizes), [np.ones(7) for _ in sizes], RATE)


def plain_local_sgd(task: Quadratic, workers: int, every: int, steps: int) -> Vector:
    """Written down as in a book: all take `every` steps, then the mean."""
    mean = np.ones(7)
    for first in range(0, steps, every):
        ends = []
        for worker in range(workers):
            parameters = mean
            for step in range(first, first + every):
                parameters = parameters - RATE * task.gradient(parameters, worker, step)[1]
            ends.append(parameters)
        mean = np.mean(ends, axis=0)
    return mean


def test_local_sgd_averages_the_parameters() -> None:
    swarm = simulation(LocalSGD(every=5))
    swarm.run(20)
    expected = plain_local_sgd(Quadratic((8, 8, 8, 8)), workers=4, every=5, steps=20)
    for parameters in swarm.parameters:
        np.testing.assert_allclose(parameters, expected, rtol=0, atol=1e-10)
    assert len({parameters.tobytes() for parameters in swarm.parameters}) == 1


def test_between_exchanges_every_worker_goes_its_own_way() -> None:
    swarm = simulation(LocalSGD(every=5))
    swarm.run(4)
    assert len({parameters.tobytes() for parameters in swarm.parameters}) == 4
    assert swarm.traffic.exchanges == 0


def test_diloco_of_one_step_without_momentum_is_averaging() -> None:
    plain = DiLoCo(every=1, outer=OuterStep(rate=1.0, momentum=0.0))
    ours, averaging = simulation(plain), simulation(LocalSGD(every=1))
    task, expected = Quadratic((8, 8, 8, 8)), np.ones(7)
    for step in range(20):
        expected = expected - RATE * task.batch_gradient(expected, step)
    for swarm in (ours, averaging):
        swarm.run(20)
        np.testing.assert_allclose(swarm.parameters[2], expected, rtol=0, atol=1e-10)


def test_dilocos_outer_step_is_that_of_torch() -> None:
    import torch

    swarm = simulation(DiLoCo(every=5))
    anchor = torch.ones(7, dtype=torch.float64, requires_grad=True)
    outer = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    task = Quadratic((8, 8, 8, 8))
    for first in range(0, 30, 5):
        ends = []
        for worker in range(4):
            parameters = anchor.detach().numpy().copy()
            for step in range(first, first + 5):
                parameters = parameters - RATE * task.gradient(parameters, worker, step)[1]
            ends.append(parameters)
        anchor.grad = anchor.detach() - torch.from_numpy(np.mean(ends, axis=0))
        outer.step()
        swarm.run(5)
        np.testing.assert_allclose(swarm.parameters[3], anchor.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (4, 8, 12, 16)])
def test_federated_averaging_of_all_with_one_step_is_the_synchronous_step(
    sizes: tuple[int, ...],
) -> None:
    swarm = simulation(FederatedAveraging(every=1, fraction=1.0), sizes)
    swarm.run(20)
    task, expected = Quadratic(sizes), np.ones(7)
    for step in range(20):
        expected = expected - RATE * task.batch_gradient(expected, step)
    for parameters in swarm.parameters:
        np.testing.assert_allclose(parameters, expected, rtol=0, atol=1e-10)


def test_clients_are_drawn_alike_by_all_and_each_in_its_turn() -> None:
    strategy = FederatedAveraging(fraction=0.3, seed=5)
    peers = [f"peer{index}" for index in range(10)]
    rounds = [strategy.lottery.drawn(number, peers) for number in range(200)]
    assert rounds == [strategy.lottery.drawn(number, peers[::-1]) for number in range(200)]
    assert {len(drawn) for drawn in rounds} == {3}
    often = [sum(peer in drawn for drawn in rounds) for peer in peers]
    assert 40 <= min(often) <= max(often) <= 80, "each about 60 times of 200"
    other = FederatedAveraging(fraction=0.3, seed=6)
    assert [other.lottery.drawn(number, peers) for number in range(200)] != rounds
    assert len(FederatedAveraging(fraction=0.01).lottery.drawn(0, peers)) == 1


def test_who_is_not_drawn_does_not_count_and_takes_the_mean() -> None:
    strategy = FederatedAveraging(every=3, fraction=0.5)
    swarm = simulation(strategy, (4, 8, 12, 16))
    drawn = [int(name) for name in strategy.lottery.drawn(0, swarm.names)]
    assert len(drawn) == 2
    swarm.run(3)
    task, ends = Quadratic((4, 8, 12, 16)), []
    for worker in drawn:
        parameters = np.ones(7)
        for step in range(3):
            parameters = parameters - RATE * task.gradient(parameters, worker, step)[1]
        ends.append(parameters)
    expected = np.average(ends, axis=0, weights=[task.samples(worker, 0) for worker in drawn])
    for parameters in swarm.parameters:
        np.testing.assert_allclose(parameters, expected, rtol=0, atol=1e-10)


def test_a_newcomer_goes_on_as_the_others() -> None:
    swarm = simulation(DiLoCo(every=5))
    swarm.run(15)
    late = DiLoCo(every=5).begin(np.zeros(7), me="late")
    started = late.load(swarm.tactics[0].shared())
    assert started.tobytes() == swarm.parameters[0].tobytes()
    assert {name: values.tobytes() for name, values in late.shared().items()} == {
        name: values.tobytes() for name, values in swarm.tactics[3].shared().items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LocalSGD(every=0),
        lambda: DiLoCo(every=0),
        lambda: FederatedAveraging(every=0),
        lambda: FederatedAveraging(fraction=0.0),
        lambda: OuterStep(momentum=1.0),
        lambda: OuterStep(rate=0.0),
    ],
)
def test_options_out_of_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match=r"must be|needs"):
        wrong()
