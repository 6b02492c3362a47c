"""Sixteen numbers that stand for a model, so that peers can tell whether they hold the same one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache

import torch

from training.progress.drift import SKETCH_SIZE, Sketch

# Elements that share one table of signs; long enough that a model's layers do not repeat in it.
_TILE = 2**16


def sketch_of(parameters: Iterable[torch.Tensor]) -> Sketch:
    """Sums of all elements, each with a random sign, and each in one of 16 sums.

    The signs are the same at all peers. The distance of two models' sketches is that of the
    models, give or take a third: so good are 16 sums. One pass over the parameters, on the device
    where they are.

    Args:
        parameters: of any shapes and kinds, in an order that all peers share.
    """
    chance = random.Random("flips of tiles")
    sums = torch.zeros(SKETCH_SIZE, dtype=torch.float64)
    for parameter in parameters:
        flat = parameter.detach().reshape(-1)
        signs = _signs().to(flat.device)
        here = torch.zeros(SKETCH_SIZE, dtype=torch.float64, device=flat.device)
        for piece in torch.split(flat, _TILE):
            signed = piece.float() * signs[: piece.numel()]
            padding = -signed.numel() % SKETCH_SIZE
            rows = torch.nn.functional.pad(signed, (0, padding)).view(-1, SKETCH_SIZE)
            here += chance.choice((-1.0, 1.0)) * rows.sum(0, dtype=torch.float64)
        sums += here.cpu()
    return tuple(sums.tolist())


@lru_cache(maxsize=1)
def _signs() -> torch.Tensor:
    chance = random.Random("signs of elements")
    return torch.tensor([chance.choice((-1.0, 1.0)) for _ in range(_TILE)])
