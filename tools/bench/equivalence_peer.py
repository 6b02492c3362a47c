"""What a process of `manyhands bench equivalence` does: train as a peer, or alone without a swarm.

This module is imported once, in the process that the others are forked from.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from training.loop import TrainOptions, run_recipe
from training.recipe import Recipe
from training.recipes.build import build_model, build_optimizer, build_task
from training.schedule import steer
from training.task import evaluate

ALONE = "alone"


def run_peer(
    recipe: Recipe, initial_peers: tuple[str, ...], wait: int, events: Path, step_s: float
) -> None:
    """Take part until the last step, and write what happens to a file, a line of JSON each.

    Args:
        step_s: a global step takes at least so long.
    """
    torch.set_num_threads(1)
    next_step_s = 0.0
    with events.open("a", encoding="utf-8", buffering=1) as file:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal next_step_s
            if event["event"] != "progress":
                file.write(json.dumps(event) + "\n")
            if event["event"] == "step":
                time.sleep(max(0.0, next_step_s - time.monotonic()))
                next_step_s = time.monotonic() + step_s

        run_recipe(recipe, TrainOptions(initial_peers=initial_peers, wait_for_peers=wait), on_event)


def run_alone(recipe: Recipe, events: Path) -> None:
    """The same recipe in an ordinary loop of PyTorch; writes one event, "finished"."""
    torch.set_num_threads(1)
    task, model = build_task(recipe), build_model(recipe)
    optimizer = build_optimizer(recipe.optimizer, model.parameters())
    batches = task.batches(seed=recipe.seed, peer_id=ALONE, drawn=0)
    assert recipe.global_batch is not None, "a recipe with a strategy has no batch to compare"
    steps_taken = 0
    steer(optimizer, recipe, lambda: steps_taken)
    samples = 0
    while steps_taken < recipe.steps:
        micro_batches = -(-recipe.global_batch // recipe.micro_batch)
        for _ in range(micro_batches):
            loss = task.loss(model, batches.next_batch(recipe.micro_batch))
            (loss / micro_batches).backward()  # type: ignore[no-untyped-call]
        samples += micro_batches * recipe.micro_batch
        optimizer.step()
        optimizer.zero_grad()
        steps_taken += 1
    event = {"event": "finished", "step": steps_taken, "figures": evaluate(task, model)}
    events.write_text(json.dumps(event | {"samples": samples, "hash": ""}) + "\n", "utf-8")
