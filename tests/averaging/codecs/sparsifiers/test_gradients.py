"""Top-k on gradients of a network that learns digits: how they lie, and what is missed of them.

Source: Shi, Chu, Cheung and See, "Understanding Top-k Sparsification in Distributed Deep Learning",
2019, figure 2 and theorem 1.
"""

from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits

from averaging.codecs.registry import codec_named
from tests.averaging.codecs.sparsifiers.vectors import relative_error

EVERY = 10
SNAPSHOTS = 10


@cache
def snapshots(density: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients with what was not sent before, and what of them is sent, while a network learns."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32) / 16
    classes = torch.tensor(labels)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )
    parameters = list(model.parameters())
    codec = codec_named(f"topk:{density}:float32")
    residual = torch.zeros(sum(parameter.numel() for parameter in parameters))
    taken = []
    for step in range(EVERY * SNAPSHOTS):
        batch = torch.randint(len(inputs), (128,))
        loss = torch.nn.functional.cross_entropy(model(inputs[batch]), classes[batch])
        gradients = torch.autograd.grad(loss, parameters)
        compensated = residual + torch.cat([gradient.flatten() for gradient in gradients])
        sent = torch.empty_like(compensated)
        codec.decode(codec.encode(compensated, step), sent)
        residual = compensated - sent
        if step % EVERY == EVERY - 1:
            taken.append((compensated, sent))
        with torch.no_grad():
            sizes = [parameter.numel() for parameter in parameters]
            for parameter, change in zip(parameters, sent.split(sizes), strict=True):
                parameter -= 0.2 * change.view_as(parameter)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("density", "seen"), [("0.001", 0.98), ("0.01", 0.91), ("0.1", 0.48), ("0.5", 0.018)]
)
def test_less_is_missed_than_the_tighter_bound_says(density: str, seen: float) -> None:
    share = float(density)
    missed = [relative_error(sent, compensated) for compensated, sent in snapshots(density)]
    assert len(missed) == SNAPSHOTS
    assert max(missed) < (1 - share) ** 2 < 1 - share
    # As it was seen elsewhere, on the same kind of network.
    assert sum(missed) / SNAPSHOTS == pytest.approx(seen, rel=0.25, abs=0.02)


def test_the_tighter_bound_needs_a_bell_shape() -> None:
    values = torch.full((1000,), -0.5)
    codec = codec_named("topk:0.1:float32")
    out = torch.empty_like(values)
    codec.decode(codec.encode(values, 0), out)
    assert relative_error(out, values) == pytest.approx(1 - 0.1)
    assert relative_error(out, values) > (1 - 0.1) ** 2


def test_gradients_are_bell_shaped() -> None:
    for compensated, _ in snapshots("0.01"):
        moved = compensated.double() - compensated.double().mean()
        sigma = moved.square().mean().sqrt()
        assert abs(float((moved / sigma).pow(3).mean())) < 0.3
        assert float((moved / sigma).pow(4).mean()) > 3
        # The histogram falls on both sides of the middle.
        counts = torch.histc(compensated, 21, -3 * float(sigma), 3 * float(sigma))
        assert int(counts.argmax()) == 10
        assert bool((counts[10:].diff() <= 0.05 * counts[10]).all())
        assert bool((counts[:11].diff() >= -0.05 * counts[10]).all())
