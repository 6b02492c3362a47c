"""A latecomer steps at the swarm's rates, also in the rounds that it applies afterwards."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from averaging import DonorConfig
from tests.training.test_optimizer import Trainer, backward, make_model
from training import Swarm, SwarmConfig, SwarmOptimizer, join
from training.recipe import ScheduleRecipe, load_recipe
from training.schedule import steer

# The rate of each step differs from that of every other.
RECIPE = msgspec.structs.replace(
    load_recipe("digits"), schedule=ScheduleRecipe(name="linear", warmup=1000), clip_norm=0.01
)
WIDTH = 400


class Steered:
    """A model whose wrapped optimizer is steered, and the steps and rates that it saw."""

    def __init__(self, swarm: Swarm, seed: int) -> None:
        self.model: nn.Module = make_model(seed, width=WIDTH)
        self.seen: list[tuple[int, float]] = []
        own = torch.optim.SGD(self.model.parameters(), lr=100.0, momentum=0.9)
        self.optimizer: SwarmOptimizer = swarm.optimizer(own, model=self.model, global_batch=8)
        steer(own, RECIPE, lambda: self.optimizer.global_step)
        own.register_step_pre_hook(self._look)

    def _look(self, own: torch.optim.Optimizer, *_: Any) -> None:
        self.seen.append((self.optimizer.global_step, own.param_groups[0]["lr"]))


@pytest.mark.slow
def test_a_latecomer_that_applies_rounds_it_missed_has_the_rates_of_the_others() -> None:
    hashes: dict[str, dict[int, str]] = {"first": {}, "late": {}}
    # Such small chunks make the download take as long as several rounds.
    slow = SwarmConfig(donor=DonorConfig(chunk_size_bytes=64))

    def train(trainer: Trainer, swarm: Swarm) -> None:
        first = Steered(swarm, seed=1)
        number = 0
        while not trainer.ended.is_set():
            time.sleep(0.05)  # stands for computing
            backward(first.model, number)
            if first.optimizer.step(samples=8).stepped:
                hashes["first"][first.optimizer.global_step] = first.optimizer.state_hash()
                trainer.ready.set()
            number += 1

    with Trainer(train, slow) as trainer, join("test", initial_peers=trainer.addresses) as swarm:
        late = Steered(swarm, seed=2)
        assert late.optimizer.synchronize()
        replayed = len(late.seen)
        number = 10_000
        while len(hashes["late"]) < 3:
            backward(late.model, number)
            if late.optimizer.step(samples=8).stepped:
                hashes["late"][late.optimizer.global_step] = late.optimizer.state_hash()
            number += 1
    steps = [step for step, _ in late.seen]
    print(f"{replayed} rounds were applied afterwards")
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    for step, rate in late.seen:
        assert rate == 100.0 * ((step + 1) / 1000)
    for step, state_hash in hashes["late"].items():
        assert hashes["first"][step] == state_hash
