"""Sums of gradients: what one machine would compute, whatever the micro-batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.gradients import Gradients


def linear(dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).to(dtype)


def of(model: nn.Module) -> Gradients:
    return Gradients(dict(sorted(model.named_parameters())))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_micro_batches_add_up_to_the_whole_batch(sizes: list[int]) -> None:
    model = linear()
    inputs = torch.randn(sum(sizes), 3, dtype=torch.float64)
    gradients = of(model)
    at = 0
    for size in sizes:
        model(inputs[at : at + size]).square().sum(dim=1).mean().backward()
        gradients.add(size)
        at += size
    assert gradients.samples == sum(sizes)
    means = gradients.means()
    model(inputs).square().sum(dim=1).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(means[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_gradients_are_taken_away_so_nothing_counts_twice() -> None:
    model = linear()
    gradients = of(model)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    gradients.add(1)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        gradients.add(1)
    assert gradients.samples == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_never_added(bad: float) -> None:
    model = linear()
    gradients = of(model)
    model.weight.sum().backward()
    assert gradients.add(4)
    (model.weight.sum() + model.bias[1] * bad).backward()
    assert not gradients.add(2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert gradients.samples == 4
    assert gradients.means()["weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_sparse_gradients_add_up_and_are_checked_too() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    gradients = of(model)
    model(torch.tensor([1, 1, 3])).sum().backward()
    assert gradients.add(1)
    assert gradients.means()["weight"].tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]
    (model(torch.tensor([2])).sum() * float("nan")).backward()
    assert not gradients.add(1)


def test_what_was_taken_out_can_be_put_back() -> None:
    model = linear()
    gradients = of(model)
    model.weight.sum().backward()
    gradients.add(3)
    means = {name: mean.copy() for name, mean in gradients.means().items()}
    gradients.clear()
    (7 * model.bias.sum()).backward()
    gradients.add(1)
    gradients.restore(means, 3)
    assert gradients.samples == 4
    assert gradients.means()["weight"].tolist() == [[0.75] * 3] * 2
    assert gradients.means()["bias"].tolist() == [1.75, 1.75]


def test_a_parameter_that_the_loss_did_not_reach_adds_nothing() -> None:
    model = linear()
    gradients = of(model)
    model.weight.sum().backward()
    gradients.add(4)
    assert gradients.means()["bias"].tolist() == [0, 0]
    assert gradients.means()["weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, "float64"),
        (torch.float32, "float32"),
        (torch.bfloat16, "float32"),
        (torch.float16, "float32"),
    ],
)
def test_sums_are_kept_in_floats_wide_enough(dtype: torch.dtype, expected: str) -> None:
    model = linear(dtype)
    gradients = of(model)
    assert set(gradients.spec.dtypes) == {expected}
    for _ in range(300):
        model.weight.sum().backward()
        gradients.add(1)
    assert gradients.means()["weight"].tolist() == [[1, 1, 1], [1, 1, 1]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    gradients.apply(gradients.means(), optimizer)
    torch.testing.assert_close(model.weight.detach(), before - 0.5)


def test_clearing_begins_anew() -> None:
    model = linear()
    gradients = of(model)
    model.weight.sum().backward()
    gradients.add(2)
    staging = gradients.means()
    gradients.clear()
    assert gradients.samples == 0
    assert gradients.means() is staging
    assert not staging["weight"].any()
    gradients.forget_staging()
    assert gradients.means() is not staging


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter"):
        Gradients({})
    with pytest.raises(ValueError, match="must be a float"):
        Gradients({"z": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
