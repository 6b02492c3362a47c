"""LAMB equals its formula in plain numpy, survives its state_dict, and steps in a swarm."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.optimizers.plain import lamb
from training import join
from training.optimizers import Lamb
from training.optimizers.lamb import WEIGHT_NORM_MAX

SHAPES = ((4, 3), (5,), (), (2, 3, 2))


def draw(steps: int, scale: float = 1.0) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    chance = np.random.default_rng(0)
    starts = [np.asarray(scale * chance.standard_normal(shape)) for shape in SHAPES]
    gradients = [
        [np.asarray(chance.standard_normal(shape)) for shape in SHAPES] for _ in range(steps)
    ]
    return starts, gradients


def take(optimizer: torch.optim.Optimizer, gradients: list[np.ndarray]) -> None:
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
    optimizer.step()


def own(starts: list[np.ndarray]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.from_numpy(start.copy())) for start in starts]


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("scale", [1.0, 1e5, 0.0])
def test_it_equals_the_plain_formula(debias: bool, decay: float, scale: float) -> None:
    starts, gradients = draw(7, scale)
    parameters = own(starts)
    optimizer = Lamb(parameters, lr=0.02, weight_decay=decay, debias=debias)
    for step in gradients:
        take(optimizer, step)
    for index, parameter in enumerate(parameters):
        expected = lamb(
            starts[index],
            [step[index] for step in gradients],
            lr=0.02,
            betas=(0.9, 0.999),
            eps=1e-6,
            decay=decay,
            clamp=WEIGHT_NORM_MAX,
            debias=debias,
        )
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_long_weights_count_as_ten_thousand() -> None:
    starts, gradients = draw(1, 1e6)
    parameters = own(starts)
    take(Lamb(parameters, lr=1.0, weight_decay=0.0, debias=False), gradients[0])
    moved = [
        np.linalg.norm(p.detach().numpy() - s) for p, s in zip(parameters, starts, strict=True)
    ]
    np.testing.assert_allclose(moved, 10_000.0, rtol=1e-9)


def test_vectors_need_not_decay() -> None:
    starts, gradients = draw(3)

    def after(**options: bool | float) -> list[nn.Parameter]:
        parameters = own(starts)
        optimizer = Lamb(parameters, lr=0.1, **options)
        for step in gradients:
            take(optimizer, step)
        return parameters

    mixed = after(weight_decay=0.1, decay_1d=False)
    decayed, plain = after(weight_decay=0.1), after(weight_decay=0.0)
    for shape, parameter, with_decay, without in zip(SHAPES, mixed, decayed, plain, strict=True):
        assert torch.equal(parameter, with_decay if len(shape) > 1 else without)
        if parameter.numel() > 1:  # of a single number a step has always the same length
            assert not torch.equal(parameter, without if len(shape) > 1 else with_decay)


def test_gradients_are_not_clipped_and_not_changed() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    parameter.grad = torch.tensor([1e8, 0.0, -1e8], dtype=torch.float64)
    optimizer = Lamb([parameter], lr=0.1)
    optimizer.step()
    assert parameter.grad.tolist() == [1e8, 0.0, -1e8]
    moment = optimizer.state[parameter]["exp_avg"]
    np.testing.assert_allclose(moment.numpy(), [1e7, 0.0, -1e7], rtol=1e-12)


def test_it_goes_on_from_its_state_dict() -> None:
    starts, gradients = draw(6)
    parameters = own(starts)
    optimizer = Lamb(parameters, lr=0.05)
    for step in gradients[:3]:
        take(optimizer, step)
    others = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = Lamb(others, lr=0.7, debias=False)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in gradients[3:]:
        take(optimizer, step)
        take(other, step)
    for parameter, twin in zip(parameters, others, strict=True):
        assert torch.equal(parameter, twin)


def test_parameters_without_a_gradient_stay_and_a_closure_is_called() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lamb([used, unused], lr=0.1)

    def closure() -> float:
        loss = used.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 2.0
    assert unused.tolist() == [1.0, 1.0]
    assert used[0] < 1


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"eps": 0.0},
        {"weight_decay": float("inf")},
        {"clamp_value": 0.0},
    ],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Lamb([nn.Parameter(torch.ones(1))], **options)


def test_in_a_swarm_it_takes_the_same_steps() -> None:
    def make() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(3, 2).double()

    def backward(model: nn.Module, number: int) -> None:
        chance = torch.Generator().manual_seed(number)
        inputs = torch.randn(4, 3, generator=chance, dtype=torch.float64)
        model(inputs).square().sum(dim=1).mean().backward()

    model, plain = make(), make()
    alone = Lamb(plain.parameters(), lr=0.1)
    with join("lamb") as swarm:
        optimizer = swarm.optimizer(Lamb(model.parameters(), lr=0.1), model=model, global_batch=4)
        for number in range(4):
            backward(model, number)
            assert optimizer.step(samples=4).stepped
            alone.zero_grad()
            backward(plain, number)
            alone.step()
        assert optimizer.reaverage().succeeded, "what it keeps can be averaged"
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
