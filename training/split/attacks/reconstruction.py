"""What an attack on activations is given, and how well its guesses of the inputs do.

    N  auxiliary samples    M  victims    D  numbers of an input    L  numbers of an activation

Whoever receives activations may have inputs of its own that are like the victims', with the
activations that the client's part makes of them: the auxiliary pairs. From these an attack learns
the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pairs:
    """Activations with the inputs that they were made of."""

    activations: torch.Tensor
    """(N, …) floating point."""
    inputs: torch.Tensor
    """(N, …) floating point, of the same samples."""

    def __post_init__(self) -> None:
        if len(self.activations) != len(self.inputs) or len(self.inputs) == 0:
            raise ValueError(
                f"as many activations as inputs are needed, and at least one; "
                f"got {len(self.activations)} and {len(self.inputs)}"
            )


Decoder = Callable[[Pairs, torch.Tensor], torch.Tensor]
"""Auxiliary pairs and the victims' activations (M, …) in, a guess of each victim's input out."""


@dataclass(frozen=True)
class Reconstruction:
    """How near an attack came."""

    guesses: torch.Tensor
    """(M, …) in the inputs' shape."""
    error: float
    """The mean squared error of a number of an input, in the square of the inputs' unit."""
    mean_error: float
    """The same of who guesses the mean of the auxiliary inputs: without any activation."""

    @property
    def fraction(self) -> float:
        """The error in that of guessing the mean: 0 is a perfect copy, 1 nothing learnt."""
        return self.error / self.mean_error


def reconstruct(decoder: Decoder, auxiliary: Pairs, victims: Pairs) -> Reconstruction:
    """Attack the victims; their inputs are used to judge the guesses only."""
    guesses = decoder(auxiliary, victims.activations).reshape(victims.inputs.shape)
    mean = auxiliary.inputs.mean(dim=0)
    return Reconstruction(
        guesses=guesses,
        error=_mean_square(guesses - victims.inputs),
        mean_error=_mean_square(mean - victims.inputs),
    )


def _mean_square(differences: torch.Tensor) -> float:
    return differences.double().square().mean().item()


@dataclass(frozen=True)
class Scaling:
    """Moves numbers to 0 on average and about 1 in size.

    One size serves all dimensions: each by its own would blow up those that have collapsed.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, rows_ND: torch.Tensor) -> Scaling:
        """As these rows need it."""
        mean_D = rows_ND.mean(dim=0)
        deviation = (rows_ND - mean_D).square().mean().sqrt()
        return cls(mean_D, torch.where(deviation > 0, deviation, 1))

    def apply(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """Scaled rows."""
        return (rows_ND - self.mean) / self.deviation

    def undo(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """Rows as they were."""
        return rows_ND * self.deviation + self.mean
