"""Labels are read from activations and gradients that depend on them, and not from noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.split.attacks.data import digits, noise
from training.split.attacks import (
    Classifier,
    Labelled,
    direction_classifier,
    infer_labels,
    norm_leak,
    softmax_classifier,
)

KNOWN = 100


def returned_gradients() -> tuple[Tensor, Tensor]:
    """What comes back for the first 500 digits from a head that knows little yet."""
    activations = digits().train_inputs[:500].flatten(1).clone().requires_grad_()
    labels = digits().train_labels[:500]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(64, 10)
    loss = nn.functional.cross_entropy(head(activations), labels)
    (gradients,) = torch.autograd.grad(loss, activations)
    return gradients, labels


def test_activations_tell_labels() -> None:
    data = digits()
    found = infer_labels(
        softmax_classifier,
        Labelled(data.train_inputs[:300].flatten(1), data.train_labels[:300]),
        Labelled(data.test_inputs.flatten(1), data.test_labels),
    )
    assert found.accuracy > 0.85
    assert found.blind_accuracy < 0.12


def test_the_direction_of_gradients_tells_labels() -> None:
    gradients, labels = returned_gradients()
    found = infer_labels(
        direction_classifier,
        Labelled(gradients[:KNOWN], labels[:KNOWN]),
        Labelled(gradients[KNOWN:], labels[KNOWN:]),
    )
    assert found.accuracy > 0.99


@pytest.mark.parametrize("classifier", [softmax_classifier, direction_classifier])
def test_noise_tells_no_labels(classifier: Classifier) -> None:
    labels = digits().train_labels
    found = infer_labels(
        classifier,
        Labelled(noise(400, 64), labels[:400]),
        Labelled(noise(1000, 64, seed=1), labels[400:1400]),
    )
    assert abs(found.accuracy - 0.1) < 0.04


def rare_label_gradients() -> tuple[Tensor, Tensor]:
    """Gradients of a trained head for two labels, one of which a tenth of the samples has."""
    labels = (torch.arange(400) % 10 == 0).long()
    activations = noise(400, 4) + 0.7 * labels[:, None]
    weights = torch.zeros(4, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    for _ in range(300):
        scores = activations @ weights + bias
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.float())
        for one, slope in zip(
            (weights, bias), torch.autograd.grad(loss, (weights, bias)), strict=True
        ):
            one.data -= slope
    errors = (activations @ weights + bias).sigmoid() - labels
    return (errors[:, None] * weights).detach(), labels


def test_the_length_of_gradients_tells_a_rare_label() -> None:
    gradients, labels = rare_label_gradients()
    assert norm_leak(gradients, labels) > 0.9
    assert norm_leak(gradients, 1 - labels) == pytest.approx(1 - norm_leak(gradients, labels))
    assert norm_leak(noise(400, 4), labels) == pytest.approx(0.5, abs=0.1)
    assert norm_leak(torch.ones_like(gradients), labels) == 0.5


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    lengths = torch.tensor([[1.0], [2.0], [2.0], [3.0], [0.5]])
    labels = torch.tensor([0, 1, 0, 1, 1])
    # Of six pairs of a 1 and a 0, three are in order (2, 3 and 3) and one is a draw.
    assert norm_leak(lengths, labels) == pytest.approx((3 + 0.5) / 6)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="as many labels as samples"):
        Labelled(noise(3, 2), torch.zeros(2).long())
    for labels in ([0, 0], [0, 2]):
        with pytest.raises(ValueError, match="both must occur"):
            norm_leak(noise(2, 2), torch.tensor(labels))
