"""Sixteen numbers that stand for a model, so that peers can tell whether they hold the same one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache

import torch

from training.progress.drift import SKETCH_SIZE, Sketch

# Elements that share one table of signs; long enough that a model's layers do not repeat in it.
_TILE = 2**16


class Sketcher:
    """Sums of all elements, each with a random sign, and each in one of 16 sums.

    The signs are the same at all peers. The distance of two models' sketches is that of the
    models, give or take a third: so good are 16 sums. One pass over the parameters, on the device
    where they are.
    """

    def __init__(self) -> None:
        self._chance = random.Random("flips of tiles")
        self._sums = torch.zeros(SKETCH_SIZE, dtype=torch.float64)

    def add(self, parameter: torch.Tensor) -> None:
        """The next parameter, of any shape and kind, in an order that all peers share."""
        flat = parameter.detach().reshape(-1)
        signs = _signs().to(flat.device)
        here = torch.zeros(SKETCH_SIZE, dtype=torch.float64, device=flat.device)
        for piece in torch.split(flat, _TILE):
            signed = piece.float() * signs[: piece.numel()]
            padding = -signed.numel() % SKETCH_SIZE
            rows = torch.nn.functional.pad(signed, (0, padding)).view(-1, SKETCH_SIZE)
            here += self._chance.choice((-1.0, 1.0)) * rows.sum(0, dtype=torch.float64)
        self._sums += here.cpu()

    @property
    def sketch(self) -> Sketch:
        """Of the parameters so far."""
        return tuple(self._sums.tolist())


def sketch_of(parameters: Iterable[torch.Tensor]) -> Sketch:
    """Of parameters in an order that all peers share."""
    sketcher = Sketcher()
    for parameter in parameters:
        sketcher.add(parameter)
    return sketcher.sketch


@lru_cache(maxsize=1)
def _signs() -> torch.Tensor:
    chance = random.Random("signs of elements")
    return torch.tensor([chance.choice((-1.0, 1.0)) for _ in range(_TILE)])
