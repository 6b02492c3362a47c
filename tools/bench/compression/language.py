"""The recipe that learns characters, by workers of one process whose gradients pass a codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tools.bench.compression.uplinks import Uplinks
from training.recipe import load_recipe, override
from training.recipes.build import build_model, build_optimizer, build_task
from training.schedule import steer
from training.task import evaluate


@dataclass(frozen=True)
class Learned:
    """What came of it."""

    workers: int
    sent_bytes: int
    """By all of them."""
    figures: dict[str, float]
    """Of text that nobody was trained on."""


def learn_language(codec: str, feedback: str, steps: int) -> Learned:
    """Train `charlm` for so many global steps, of as many workers as its batch has micro-batches.

    Args:
        codec, feedback: as `Uplinks` has them.
    """
    recipe = override(load_recipe("charlm"), {"steps": steps}, source="this benchmark")
    assert recipe.global_batch is not None, "the recipe has no strategy"
    workers = recipe.global_batch // recipe.micro_batch
    task, model = build_task(recipe), build_model(recipe)
    parameters = list(model.parameters())
    optimizer = build_optimizer(recipe.optimizer, parameters)
    taken = 0
    steer(optimizer, recipe, lambda: taken)
    batches = [
        task.batches(seed=recipe.seed, peer_id=str(worker), drawn=0) for worker in range(workers)
    ]
    count = sum(parameter.numel() for parameter in parameters)
    uplinks = Uplinks(codec, feedback, workers, count, recipe.seed)
    while taken < recipe.steps:
        vectors = []
        for worker in range(workers):
            loss = task.loss(model, batches[worker].next_batch(recipe.micro_batch))
            grads = torch.autograd.grad(loss, parameters)
            vectors.append(nn.utils.parameters_to_vector(grads))
        _assign(parameters, uplinks.mean(vectors))
        optimizer.step()
        taken += 1
    return Learned(workers, uplinks.sent_bytes, evaluate(task, model))


def _assign(parameters: list[nn.Parameter], flat: torch.Tensor) -> None:
    """Make a flat vector the gradient."""
    sizes = [parameter.numel() for parameter in parameters]
    pieces = flat.split(sizes)  # type: ignore[no-untyped-call]
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
