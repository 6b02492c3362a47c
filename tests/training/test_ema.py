"""A running mean of the parameters: by global steps, swapped in for judging, saved and loaded."""

import pytest
import torch
from torch import nn

from training.ema import WeightAverage


def model_at(value: float) -> nn.Linear:
    model = nn.Linear(2, 1).double()
    fill(model, value)
    return model


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def mean_of(average: WeightAverage, model: nn.Module) -> float:
    with average.swapped_in():
        values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert (values == values[0]).all()
    return float(values[0])


def test_it_equals_the_plain_weighted_sum() -> None:
    model = model_at(5.0)
    average = WeightAverage(model, decay=0.8)
    path = [1.0, -2.0, 7.0, 0.5]
    for step, value in enumerate(path, start=1):
        fill(model, value)
        average.update(step)
    plain = 5.0 * 0.8**4 + sum(0.2 * 0.8 ** (3 - i) * value for i, value in enumerate(path))
    assert mean_of(average, model) == pytest.approx(plain)


def test_steps_taken_over_at_once_decay_as_often() -> None:
    model = model_at(1.0)
    average = WeightAverage(model, decay=0.9, step=10)
    fill(model, 3.0)
    average.update(14)
    assert mean_of(average, model) == pytest.approx(3.0 + (1.0 - 3.0) * 0.9**4)
    average.update(14)
    assert mean_of(average, model) == pytest.approx(3.0 + (1.0 - 3.0) * 0.9**4), "counted once"


def test_the_model_has_its_own_parameters_again_also_after_an_error() -> None:
    model = model_at(1.0)
    average = WeightAverage(model, decay=0.5)
    fill(model, 2.0)
    average.update(1)
    with pytest.raises(KeyError), average.swapped_in():
        assert float(model.bias.detach()) == 1.5
        raise KeyError
    assert float(model.bias.detach()) == 2.0


def test_it_goes_on_from_its_state_dict() -> None:
    model = model_at(0.0)
    average = WeightAverage(model, decay=0.5)
    fill(model, 4.0)
    average.update(3)
    other_model = model_at(4.0)
    other = WeightAverage(other_model, decay=0.5)
    other.load_state_dict(average.state_dict())
    fill(model, 8.0)
    fill(other_model, 8.0)
    average.update(5)
    other.update(5)
    assert mean_of(other, other_model) == mean_of(average, model) == 8 - 4.5 * 0.25
    with pytest.raises(ValueError, match="another model"):
        WeightAverage(nn.Linear(3, 1), decay=0.5).load_state_dict(average.state_dict())


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="a decay is"):
        WeightAverage(model_at(0.0), decay=decay)
