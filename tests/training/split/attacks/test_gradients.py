"""A gradient gives its sample away; noise, and sums over many, are in the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.split.attacks.data import digits, noise
from training.split.attacks import input_of_linear_layer, search_input


def linear_gradients(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of digits, and the gradient of a linear classifier's mean loss over them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(64, 10)
    pixels = digits().train_inputs[:count].flatten(1)
    loss = nn.functional.cross_entropy(layer(pixels), digits().train_labels[:count])
    weight_gradient, bias_gradient = torch.autograd.grad(loss, (layer.weight, layer.bias))
    return pixels, weight_gradient, bias_gradient


def test_a_linear_layer_gives_one_sample_away_exactly() -> None:
    pixels, *gradients = linear_gradients(1)
    torch.testing.assert_close(input_of_linear_layer(*gradients), pixels[0], rtol=0, atol=1e-6)


def test_of_a_batch_there_is_a_mixture_only() -> None:
    pixels, *gradients = linear_gradients(32)
    apart = (input_of_linear_layer(*gradients) - pixels).square().mean(dim=1)
    assert apart.min() > 0.02


def small_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 12, bias=False), nn.Tanh(), nn.Linear(12, 10)).double()


def gradient_of_one(model: nn.Module, index: int) -> tuple[Tensor, int, list[Tensor]]:
    pixels = digits().train_inputs[index].flatten().double()
    label = digits().train_labels[index]
    loss = nn.functional.cross_entropy(model(pixels[None]), label[None])
    return pixels, int(label), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_search_finds_picture_and_label(index: int) -> None:
    model = small_model()
    pixels, label, gradient = gradient_of_one(model, index)
    found = search_input(model, gradient, input_shape=(64,), label_count=10, starts=2)
    assert found.label == label
    assert found.mismatch < 1e-6
    assert (found.input - pixels).square().mean() < 1e-4
    assert all(parameter.grad is None for parameter in model.parameters())
    again = search_input(model, gradient, input_shape=(64,), label_count=10, starts=2)
    assert torch.equal(found.input, again.input)


@pytest.mark.slow
def test_noise_on_the_gradient_hides_the_picture() -> None:
    model = small_model()
    pixels, _, gradient = gradient_of_one(model, 0)
    noisy = [one + noise(*one.shape).double() for one in gradient]
    found = search_input(model, noisy, input_shape=(64,), label_count=10, starts=2)
    assert (found.input - pixels).square().mean() > 0.07


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="tells nothing"):
        input_of_linear_layer(torch.zeros(2, 3), torch.zeros(2))
    model = small_model()
    with pytest.raises(ValueError, match="3 parameters need as many gradients, not 1"):
        search_input(model, [noise(2)], input_shape=(64,), label_count=10)
