"""Reconstruction by look-up: the inputs of the samples whose activations are nearest."""

from __future__ import annotations

import torch

from training.split.attacks.reconstruction import Pairs

_BLOCK_ROWS = 1024


def neighbour_decoder(
    auxiliary: Pairs, activations: torch.Tensor, *, neighbours: int = 5
) -> torch.Tensor:
    """Guess each input as the mean of its neighbours' inputs, (M, D).

    It learns nothing, so nothing that makes decoders hard to train stands in its way.

    Args:
        auxiliary: N pairs.
        activations: (M, …) of the victims.
        neighbours: how many, at most N.
    """
    if not 1 <= neighbours <= len(auxiliary.inputs):
        raise ValueError(f"no {neighbours} neighbours among {len(auxiliary.inputs)} samples")
    known_NL = auxiliary.activations.detach().flatten(1)
    inputs_ND = auxiliary.inputs.flatten(1)
    guesses = []
    for block_BL in torch.split(activations.detach().flatten(1), _BLOCK_ROWS):
        nearest_BK = torch.cdist(block_BL, known_NL).topk(neighbours, largest=False).indices
        guesses.append(inputs_ND[nearest_BK].mean(dim=1))
    return torch.cat(guesses)
