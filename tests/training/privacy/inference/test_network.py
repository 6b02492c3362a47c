"""Networks in whole numbers: near the plain ones, and refused where they could run over."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.privacy.inference.digits import digits, trained_network
from training.privacy.inference import fix_network


def test_logits_are_those_of_the_plain_network() -> None:
    network = fix_network(trained_network(), weight_fraction_bits=10, hidden_fraction_bits=8)
    pictures, _ = digits()
    features = network.shape.fix_features(pictures.numpy())
    with torch.no_grad():
        expected = trained_network()(pictures).numpy()
    got = network.logits(features) / 2.0 ** (10 + 8)
    # Half a step of each weight, and a whole one of each hidden value, times what they multiply.
    np.testing.assert_allclose(got, expected, atol=0.15)
    assert np.mean(network.classes(features) == expected.argmax(1)) > 0.995


def test_a_single_layer_is_exact_where_numbers_are() -> None:
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.25, 2.0], [0.0, 1.0, -0.75]]))
    network = fix_network(model, feature_bits=8, feature_fraction_bits=2, weight_fraction_bits=2)
    features = np.array([[1.0, -2.5, 0.25], [31.75, -32.0, 0.0]])
    got = network.logits(network.shape.fix_features(features)) / 2.0**4
    np.testing.assert_array_equal(got, features @ model.weight.detach().double().numpy().T)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(),
    ],
)
def test_other_models_are_refused(model: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="Linear layers with one ReLU"):
        fix_network(model)


def test_what_could_run_over_is_refused() -> None:
    model = nn.Linear(64, 10)
    with torch.no_grad():
        model.weight.fill_(300.0)
    with pytest.raises(ValueError, match="layer 0 could run over 32 bits"):
        fix_network(model)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        fix_network(model)
    for bits in ({"feature_bits": 1}, {"feature_bits": 25}, {"feature_fraction_bits": 8}):
        with pytest.raises(ValueError, match="feature_bits must be"):
            fix_network(nn.Linear(2, 2), **bits)


@pytest.mark.parametrize("value", [2.0, -2.1, float("nan"), float("inf")])
def test_features_out_of_range_are_refused(value: float) -> None:
    shape = fix_network(nn.Linear(2, 2)).shape
    assert shape.fix_features(np.array([[-2.0, 1.98]])).tolist() == [[-128, 127]]
    with pytest.raises(ValueError, match="features must be from -2 to below 2"):
        shape.fix_features(np.array([[0.0, value]]))
    with pytest.raises(ValueError, match="of shape"):
        shape.fix_features(np.zeros((1, 3)))
