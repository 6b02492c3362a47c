"""Reconstruction by networks that are trained on auxiliary pairs: a perceptron, or convolutions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from training.split.attacks.reconstruction import Pairs, Scaling

BATCH = 64
RATE = 1e-3
"""Adam's, falling to 0. Source: the attack in the code of NoPeek's authors."""
HELD_OUT = 0.1
"""The part of the auxiliary pairs that says which epoch was best. Source: the same."""


def perceptron_decoder(
    auxiliary: Pairs,
    activations: torch.Tensor,
    *,
    width: int = 256,
    epochs: int = 60,
    seed: int = 0,
) -> torch.Tensor:
    """Guess inputs by two hidden layers, (M, D).

    Args:
        auxiliary: N pairs, at least two.
        activations: (M, …) of the victims.
        width: of the hidden layers.
        epochs: over the auxiliary pairs; the one that is best on those held out counts.
        seed: decides the first parameters, who is held out, and the order.
    """
    activation_size, input_size = auxiliary.activations[0].numel(), auxiliary.inputs[0].numel()

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(activation_size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, input_size),
        )

    return _train_and_guess(make, auxiliary, activations, epochs=epochs, seed=seed)


def convolution_decoder(
    auxiliary: Pairs,
    activations: torch.Tensor,
    *,
    channels: int = 32,
    epochs: int = 60,
    seed: int = 0,
) -> torch.Tensor:
    """Guess pictures from a coarse one that is made finer by convolutions, (M, D).

    Args:
        auxiliary: N pairs, at least two, whose inputs are (N, C, H, W).
        activations: (M, …) of the victims.
        channels: of the pictures in between.
        epochs, seed: as for `perceptron_decoder`.
    """
    if auxiliary.inputs.ndim != 4:
        raise ValueError(f"pictures (N, C, H, W) are needed, not {tuple(auxiliary.inputs.shape)}")
    _, colours, height, width = auxiliary.inputs.shape
    coarse = (channels, math.ceil(height / 2), math.ceil(width / 2))
    activation_size = auxiliary.activations[0].numel()

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(activation_size, math.prod(coarse)),
            nn.ReLU(),
            nn.Unflatten(1, coarse),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Upsample(size=(height, width)),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, colours, kernel_size=3, padding=1),
            nn.Flatten(),
        )

    return _train_and_guess(make, auxiliary, activations, epochs=epochs, seed=seed)


def _train_and_guess(
    make: Callable[[], nn.Module],
    auxiliary: Pairs,
    activations: torch.Tensor,
    *,
    epochs: int,
    seed: int,
) -> torch.Tensor:
    """The guesses of the network as of its best epoch."""
    if len(auxiliary.inputs) < 2 or epochs < 1:
        raise ValueError("at least two auxiliary pairs and one epoch are needed")
    known_NL = auxiliary.activations.detach().float().flatten(1)
    inputs_ND = auxiliary.inputs.detach().float().flatten(1)
    from_activations, to_inputs = Scaling.of(known_NL), Scaling.of(inputs_ND)
    known_NL, targets_ND = from_activations.apply(known_NL), to_inputs.apply(inputs_ND)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make().to(known_NL.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(known_NL), generator=generator)
    held = max(1, round(HELD_OUT * len(order)))
    best = _train(
        network,
        (known_NL[order[held:]], targets_ND[order[held:]]),
        (known_NL[order[:held]], targets_ND[order[:held]]),
        epochs,
        generator,
    )
    with torch.no_grad():
        seen_ML = from_activations.apply(activations.detach().float().flatten(1))
        guesses_MD = to_inputs.undo(best(seen_ML))
    return guesses_MD.to(auxiliary.inputs.dtype)


def _train(
    network: nn.Module,
    shown: tuple[torch.Tensor, torch.Tensor],
    held: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    generator: torch.Generator,
) -> nn.Module:
    """The network as of the epoch with the least error on what is held out."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    least, best = math.inf, network
    with torch.enable_grad():
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - epoch / epochs)
            for batch in torch.split(torch.randperm(len(shown[0]), generator=generator), BATCH):
                loss = nn.functional.mse_loss(network(shown[0][batch]), shown[1][batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                error = nn.functional.mse_loss(network(held[0]), held[1]).item()
            if error < least:
                least, best = error, copy.deepcopy(network)
    return best
