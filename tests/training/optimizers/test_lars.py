"""LARS equals its formula in plain numpy, survives its state_dict, and steps in a swarm."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.optimizers.plain import lars
from tests.training.optimizers.test_lamb import SHAPES, draw, own, take
from training import join
from training.optimizers import Lars


@pytest.mark.parametrize("exclude_1d", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_it_equals_the_plain_formula(exclude_1d: bool, decay: float, scale: float) -> None:
    starts, gradients = draw(7, scale)
    parameters = own(starts)
    optimizer = Lars(
        parameters, lr=2.0, weight_decay=decay, trust_coefficient=0.01, exclude_1d=exclude_1d
    )
    for step in gradients:
        take(optimizer, step)
    for index, (shape, parameter) in enumerate(zip(SHAPES, parameters, strict=True)):
        expected = lars(
            starts[index],
            [step[index] for step in gradients],
            lr=2.0,
            momentum=0.9,
            decay=decay,
            trust=0.01,
            eps=1e-8,
            scaled=len(shape) > 1 or not exclude_1d,
        )
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_step_is_a_share_of_the_parameters_length() -> None:
    starts, gradients = draw(1)
    parameters = own(starts)
    take(Lars(parameters, lr=1.0, weight_decay=0.0, trust_coefficient=0.01, eps=0.0), gradients[0])
    for parameter, start in zip(parameters, starts, strict=True):
        moved = np.linalg.norm(parameter.detach().numpy() - start)
        assert moved == pytest.approx(0.01 * np.linalg.norm(start))


def test_gradients_are_not_changed() -> None:
    starts, gradients = draw(1)
    parameters = own(starts)
    take(Lars(parameters, weight_decay=0.1), gradients[0])
    for parameter, gradient in zip(parameters, gradients[0], strict=True):
        assert parameter.grad is not None
        assert np.array_equal(parameter.grad.numpy(), gradient)


def test_it_goes_on_from_its_state_dict() -> None:
    starts, gradients = draw(6)
    parameters = own(starts)
    optimizer = Lars(parameters, lr=0.5)
    for step in gradients[:3]:
        take(optimizer, step)
    others = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = Lars(others, lr=0.7, momentum=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in gradients[3:]:
        take(optimizer, step)
        take(other, step)
    for parameter, twin in zip(parameters, others, strict=True):
        assert torch.equal(parameter, twin)


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"trust_coefficient": 0.0}],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Lars([nn.Parameter(torch.ones(1))], **options)


def test_in_a_swarm_it_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    plain = copy.deepcopy(model)
    alone = Lars(plain.parameters(), lr=3.0)
    inputs = torch.randn(4, 3, dtype=torch.float64)
    with join("lars") as swarm:
        optimizer = swarm.optimizer(Lars(model.parameters(), lr=3.0), model=model, global_batch=4)
        for _ in range(4):
            model(inputs).square().sum(dim=1).mean().backward()
            assert optimizer.step(samples=4).stepped
            alone.zero_grad()
            plain(inputs).square().sum(dim=1).mean().backward()
            alone.step()
        assert optimizer.reaverage().succeeded, "what it keeps can be averaged"
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
