"""A micro-batch that is not finite leaves no gradient and no trace."""

from typing import Any

import pytest
import torch
from torch import nn

from training.micro_batch import compute_gradient
from training.task import Batches, Task, evaluate

INFINITE = float("inf")


class Squares:
    """A task of a user's own: the mean square of what the model says."""

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> Batches:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(batch).square().mean()
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"square": 1 / 3}


class Root(nn.Module):
    """Finite everywhere, but its slope at 0 is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs * self.weight).abs().sqrt().sqrt()


def gradients(model: nn.Module) -> list[Any]:
    return [parameter.grad for parameter in model.parameters()]


def test_a_finite_one_leaves_its_gradient() -> None:
    task: Task = Squares()
    model = nn.Linear(2, 1)
    inputs = torch.ones(3, 2)
    batch = compute_gradient(task, model, inputs)
    assert (batch.complaint, batch.loss) == ("", float(model(inputs).detach().square().mean()))
    assert all(gradient is not None for gradient in gradients(model))


@pytest.mark.parametrize("bad", [INFINITE, -INFINITE, float("nan")])
def test_a_loss_that_is_not_finite_leaves_nothing(bad: float) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    compute_gradient(Squares(), model, torch.randn(4, 2))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    inputs = torch.zeros(4, 2)
    inputs[1, 1] = bad
    batch = compute_gradient(Squares(), model, inputs)
    assert batch.complaint.startswith("its loss is ")
    assert gradients(model) == [None] * 4
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_gradient_that_is_not_finite_is_named() -> None:
    model = Root()
    batch = compute_gradient(Squares(), model, torch.ones(1))
    assert batch.loss == 0
    assert batch.complaint == "the gradient of weight is not finite"
    assert gradients(model) == [None]


def test_figures_are_rounded_and_the_mode_is_kept() -> None:
    for training in (True, False):
        model = nn.Linear(2, 1).train(training)
        assert evaluate(Squares(), model) == {"square": 0.333333}
        assert model.training is training
