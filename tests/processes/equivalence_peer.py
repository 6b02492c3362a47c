"""One trainer of the equivalence tests: logs which micro-batches went into which global step."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training import join

STEPS = 20
GLOBAL_BATCH = 96
RATE, MOMENTUM = 0.05, 0.9
DTYPES = {"float64": torch.float64, "float32": torch.float32}
# A peer that waits longer than this for the others has lost them.
PATIENCE_S = 30.0

Batch = tuple[int, int]
"""A micro-batch by its peer's index and its number there."""


def make_model(dtype: torch.dtype) -> nn.Module:
    """The same for all peers; one parameter is frozen, two kinds of layers."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )
    model[4].bias.requires_grad_(False)
    return model.to(dtype)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, as the promise of equivalence says."""
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def micro_batch(batch: Batch, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples that depend on the batch alone, 3 to 9 of them."""
    index, number = batch
    generator = torch.Generator().manual_seed(1_000 * index + number)
    count = 3 + (7 * number + index) % 7
    inputs = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    labels = (inputs.sum(dim=1) > 0).long() + (inputs[:, 0] > 1).long()
    return inputs.to(dtype), labels


def backward(model: nn.Module, batch: Batch, dtype: torch.dtype) -> int:
    """Compute the gradients of the mean loss; returns how many samples there were."""
    inputs, labels = micro_batch(batch, dtype)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    return len(inputs)


def train(options: dict[str, Any], dtype_name: str) -> None:
    """One run: train for some steps, write what happened and the parameters."""
    dtype, index = DTYPES[dtype_name], options["index"]
    folder = Path(options["folder"])
    model = make_model(dtype)
    with (
        join(f"equivalence-{dtype_name}", initial_peers=options["initial_peers"]) as swarm,
        (folder / f"{dtype_name}-{index}.jsonl").open("w") as log,
    ):

        def tell(**content: Any) -> None:
            log.write(json.dumps(content) + "\n")
            log.flush()

        optimizer = swarm.optimizer(make_optimizer(model), model=model, global_batch=GLOBAL_BATCH)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(swarm.peers) < options["peers"][dtype_name]:
            assert time.monotonic() < deadline_s, "the others did not come"
            time.sleep(0.01)
        batches: list[Batch] = []
        number = 0
        while optimizer.global_step < STEPS:
            samples = backward(model, (index, number), dtype)
            batches.append((index, number))
            number += 1
            report = optimizer.step(samples=samples)
            optimizer.zero_grad()
            if report.round is not None:
                # Also where this peer did not learn that the round succeeded: the others may have.
                members = report.round.members.items()
                fractions = {peer: m.fraction for peer, m in members if m.weight > 0}
                tell(
                    step=report.global_step if report.stepped else None,
                    group=report.round.group_id.hex(),
                    peer=swarm.peer_id,
                    batches=batches,
                    fractions=fractions,
                    failure=report.failure,
                )
            if report.stepped or report.caught_up:
                batches = []
            dies = options["dies"].get(dtype_name)
            if dies is not None and optimizer.global_step >= dies and len(batches) == 2:
                tell(died_with=batches, after=optimizer.global_step)
                os.kill(os.getpid(), signal.SIGKILL)
        while any(peer.step < STEPS for peer in swarm.peers):
            time.sleep(0.01)
        torch.save(dict(model.named_parameters()), folder / f"{dtype_name}-{index}.pt")


def run(options: dict[str, Any]) -> None:
    """The process: one run in each dtype that it takes part in."""
    torch.set_num_threads(1)
    for name, peers in options["peers"].items():
        if peers:
            train(options, name)
