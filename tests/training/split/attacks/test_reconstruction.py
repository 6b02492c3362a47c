"""Attacks find inputs where activations have them, and nothing where they are noise."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.training.split.attacks.data import digits, noise, turned, unrelated
from training.split.attacks import (
    Decoder,
    Pairs,
    convolution_decoder,
    neighbour_decoder,
    perceptron_decoder,
    reconstruct,
    ridge_decoder,
)

PERCEPTRON = partial(perceptron_decoder, width=128, epochs=15)
CONVOLUTIONS = partial(convolution_decoder, channels=8, epochs=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "fraction_max"),
    [(ridge_decoder, 1e-6), (PERCEPTRON, 0.2), (CONVOLUTIONS, 0.5), (neighbour_decoder, 0.3)],
    ids=["ridge", "perceptron", "convolutions", "neighbours"],
)
def test_activations_that_are_the_inputs_give_them_away(
    decoder: Decoder, fraction_max: float
) -> None:
    auxiliary, victims = turned()
    found = reconstruct(decoder, auxiliary, victims)
    assert found.guesses.shape == victims.inputs.shape
    assert found.fraction <= fraction_max


@pytest.mark.slow
@pytest.mark.parametrize(
    "decoder",
    [ridge_decoder, PERCEPTRON, CONVOLUTIONS, partial(neighbour_decoder, neighbours=200)],
    ids=["ridge", "perceptron", "convolutions", "neighbours"],
)
def test_noise_gives_no_more_than_the_mean_picture(decoder: Decoder) -> None:
    found = reconstruct(decoder, *unrelated())
    assert 0.99 <= found.fraction <= 1.08


def test_neighbours_are_their_own_nearest() -> None:
    pairs = Pairs(noise(20, 5), noise(20, 3, seed=1))
    assert reconstruct(partial(neighbour_decoder, neighbours=1), pairs, pairs).error == 0
    mean = reconstruct(partial(neighbour_decoder, neighbours=20), pairs, pairs)
    assert mean.error == pytest.approx(mean.mean_error, rel=1e-6)


def test_errors_are_in_the_square_of_the_inputs_unit() -> None:
    auxiliary, victims = unrelated()
    larger = [Pairs(one.activations, 16 * one.inputs) for one in (auxiliary, victims)]
    ours, theirs = (reconstruct(ridge_decoder, *pair) for pair in ((auxiliary, victims), larger))
    assert theirs.error == pytest.approx(256 * ours.error, rel=1e-4)
    wanted = (victims.inputs - auxiliary.inputs.mean(dim=0)).square().mean()
    assert ours.mean_error == pytest.approx(wanted.item(), rel=1e-5)


def test_ridge_is_least_squares_where_noise_is_nothing() -> None:
    known, weights = noise(300, 6).double(), noise(6, 4, seed=1).double()
    auxiliary = Pairs(known, known @ weights + 2)
    seen = noise(5, 6, seed=2).double()
    torch.testing.assert_close(ridge_decoder(auxiliary, seen), seen @ weights + 2)


def test_ridge_bears_more_activations_than_samples_and_collapsed_ones() -> None:
    data = digits()
    wide = torch.cat([data.train_inputs.flatten(1)[:50], torch.ones(50, 30)], dim=1)
    auxiliary = Pairs(wide, data.train_inputs[:50])
    seen = torch.cat([data.test_inputs.flatten(1), torch.ones(len(data.test_inputs), 30)], dim=1)
    seen[:, -1] += 1e-6
    found = reconstruct(ridge_decoder, auxiliary, Pairs(seen, data.test_inputs))
    assert found.fraction < 0.8


@pytest.mark.parametrize("decoder", [PERCEPTRON, CONVOLUTIONS], ids=["perceptron", "convolutions"])
def test_a_seed_decides_a_network(decoder: partial[torch.Tensor]) -> None:
    data = digits()
    auxiliary = Pairs(data.train_inputs[:100].flatten(1), data.train_inputs[:100])
    seen = data.test_inputs[:20].flatten(1)
    state = torch.get_rng_state()
    one, same, other = (decoder(auxiliary, seen, epochs=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="as many activations as inputs"):
        Pairs(noise(3, 2), noise(4, 2))
    pairs = Pairs(noise(4, 2), noise(4, 2))
    with pytest.raises(ValueError, match="no 5 neighbours among 4"):
        neighbour_decoder(pairs, noise(1, 2))
    with pytest.raises(ValueError, match="pictures"):
        convolution_decoder(pairs, noise(1, 2))
    with pytest.raises(ValueError, match="at least two auxiliary pairs"):
        perceptron_decoder(Pairs(noise(1, 2), noise(1, 2)), noise(1, 2))
