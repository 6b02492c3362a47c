"""The state of a model as arrays: there and back, checked, hashed."""

import hashlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from averaging import StateTable
from training.model_state import ModelState

Optimizers = Callable[..., torch.optim.Optimizer]


def make_model(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    model[2].bias.requires_grad_(False)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(5, 3, generator=generator).to(dtype)
        model(inputs).square().mean().backward()
        optimizer.step()


OPTIMIZERS: list[Optimizers] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    lambda p: torch.optim.NAdam(p, lr=0.1),
    lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    lambda p: torch.optim.Adagrad(p, lr=0.1),
    lambda p: torch.optim.ASGD(p, lr=0.1),
    lambda p: torch.optim.Rprop(p, lr=0.1),
    lambda p: torch.optim.Adafactor(p, lr=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_newcomer_goes_on_exactly_where_the_donor_is(
    make: Optimizers, dtype: torch.dtype
) -> None:
    donor = make_model(1, dtype)
    donor_optimizer = make(donor.parameters())
    train(donor, donor_optimizer, 3)
    state = ModelState(donor, donor_optimizer)
    arrays, scalars = state.arrays(), state.scalars()

    newcomer = make_model(2, dtype)
    newcomer_optimizer = make(newcomer.parameters())
    mine = ModelState(newcomer, newcomer_optimizer)
    assert mine.parameter_hash() != state.parameter_hash()
    assert mine.complaint(StateTable.of(arrays)) is None
    mine.load(arrays, scalars)
    assert mine.parameter_hash() == state.parameter_hash()
    assert mine.digest() == state.digest()

    train(donor, donor_optimizer, 3, seed=7)
    train(newcomer, newcomer_optimizer, 3, seed=7)
    assert mine.digest() == state.digest()


def test_a_snapshot_is_a_copy() -> None:
    model = make_model(1)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 1)
    state = ModelState(model, optimizer)
    before = state.arrays()
    copies = {name: array.copy() for name, array in before.items()}
    train(model, optimizer, 2)
    for name, array in before.items():
        np.testing.assert_array_equal(array, copies[name])


def test_floats_there_and_back() -> None:
    model = make_model(1, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 2)
    state = ModelState(model, optimizer)
    floats = state.float_arrays()
    assert {array.dtype.name for array in floats.values()} == {"float32"}
    assert "moment/0.weight/exp_avg" in floats
    assert "buffer/1.num_batches_tracked" not in floats
    digest = state.digest()
    train(model, optimizer, 1)
    assert state.digest() != digest
    state.load_floats(floats)
    for name, array in state.float_arrays().items():
        np.testing.assert_array_equal(array, floats[name])


def test_only_what_is_trained_is_averaged() -> None:
    model = make_model(1)
    state = ModelState(model, torch.optim.SGD([{"params": model[0].parameters()}], lr=0.1))
    assert list(state.trained) == ["0.bias", "0.weight"]
    whole = ModelState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert "2.bias" not in whole.trained, "it is frozen"
    assert "parameter/2.bias" in whole.arrays(), "but a newcomer needs it"


def test_the_hash_is_of_the_bytes_in_order_of_names() -> None:
    model = make_model(1)
    state = ModelState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    plain = hashlib.sha256()
    for name in sorted(dict(model.named_parameters())):
        plain.update(dict(model.named_parameters())[name].detach().numpy().tobytes())
    assert state.parameter_hash() == plain.hexdigest()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"parameter/0.bias": None}, r"lacks parameter/0\.bias"),
        ({"parameter/0.bias": np.zeros(5, np.float32)}, r"has parameter/0\.bias as"),
        ({"parameter/0.bias": np.zeros(4)}, r"has parameter/0\.bias as"),
        ({"parameter/9.bias": np.zeros(4)}, "not this model's"),
        ({"moment/9.bias/exp_avg": np.zeros(4)}, "not this model's"),
        ({"moment/0.bias/no key": np.zeros(4)}, "not this model's"),
        ({"moment/0.bias/exp_avg": np.zeros(5)}, "more for"),
        ({f"moment/0.bias/key{i}": np.zeros(4) for i in range(9)}, "more for"),
    ],
)
def test_a_foreign_state_is_refused(change: dict[str, np.ndarray | None], complaint: str) -> None:
    model = make_model(1)
    state = ModelState(model, torch.optim.AdamW(model.parameters()))
    arrays = {**state.arrays(), **change}
    table = StateTable.of({name: array for name, array in arrays.items() if array is not None})
    found = state.complaint(table)
    assert found is not None
    assert re.search(complaint, found)


def test_a_parameter_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="not the model's"):
        ModelState(make_model(1), torch.optim.SGD(make_model(2).parameters(), lr=0.1))


def test_an_optimizer_with_unsendable_state_is_refused() -> None:
    model = make_model(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[0].bias]["history"] = [1, 2]
    with pytest.raises(ValueError, match="cannot be sent"):
        ModelState(model, optimizer).arrays()
