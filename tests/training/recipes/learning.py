"""Train a recipe in this process without a swarm, for a few steps."""

from __future__ import annotations

from training.recipe import Recipe
from training.recipes.build import build_model, build_optimizer, build_task
from training.schedule import steer
from training.task import evaluate

Figures = dict[str, float]


def learn(recipe: Recipe, *, steps: int, batch: int) -> tuple[Figures, Figures]:
    """The figures before and after."""
    task, model = build_task(recipe), build_model(recipe)
    optimizer = build_optimizer(recipe.optimizer, model.parameters())
    taken = 0
    steer(optimizer, recipe, lambda: taken)
    batches = task.batches(seed=recipe.seed, peer_id="alice", drawn=0)
    before = evaluate(task, model)
    while taken < steps:
        optimizer.zero_grad()
        task.loss(model, batches.next_batch(batch)).backward()
        optimizer.step()
        taken += 1
    return before, evaluate(task, model)
