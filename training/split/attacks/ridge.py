"""Reconstruction by ridge regression: the best linear way back."""

from __future__ import annotations

import torch

from training.split.attacks.reconstruction import Pairs, Scaling

PENALTIES = tuple(10.0**power for power in range(-8, 5))
"""Candidates, for activations of about 1 in size and for each sample."""


def ridge_decoder(auxiliary: Pairs, activations: torch.Tensor) -> torch.Tensor:
    """Guess inputs as a linear function of activations, (M, D).

    The penalty is the candidate with the least generalised cross-validation error, so there is
    nothing to tune. Computed in 64 bits.

    Args:
        auxiliary: N pairs.
        activations: (M, …) of the victims.

    Source: Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good
    ridge parameter", 1979.
    """
    known_NL = auxiliary.activations.detach().double().flatten(1)
    scaling = Scaling.of(known_NL)
    inputs_ND = auxiliary.inputs.double().flatten(1)
    mean_D = inputs_ND.mean(dim=0)
    targets_ND = inputs_ND - mean_D
    u_NR, sizes_R, vh_RL = torch.linalg.svd(scaling.apply(known_NL), full_matrices=False)
    seen_RD = u_NR.T @ targets_ND
    # What no activation explains, whatever the penalty.
    unseen = targets_ND.square().sum() - seen_RD.square().sum()
    samples = len(known_NL)

    def kept(penalty: float) -> torch.Tensor:
        kept_R: torch.Tensor = sizes_R.square() / (sizes_R.square() + penalty * samples)
        return kept_R

    def validation_error(penalty: float) -> float:
        lost_RD = (1 - kept(penalty))[:, None] * seen_RD
        # The mean of the inputs is one more number that was fitted.
        free = samples - 1 - kept(penalty).sum()
        if free <= 0:
            return float("inf")
        return float((unseen + lost_RD.square().sum()) / free.square())

    penalty = min(PENALTIES, key=validation_error)
    shrunk_R = sizes_R / (sizes_R.square() + penalty * samples)
    weights_LD = vh_RL.T @ (shrunk_R[:, None] * seen_RD)
    guesses_MD: torch.Tensor = (
        scaling.apply(activations.detach().double().flatten(1)) @ weights_LD + mean_D
    )
    return guesses_MD.to(auxiliary.inputs.dtype)
