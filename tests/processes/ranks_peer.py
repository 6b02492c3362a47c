"""One rank of a peer of several processes: trains, and logs which micro-batches it put where."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from p2p import PortalClosed
from tests.processes.equivalence_peer import Batch, backward, make_model, make_optimizer
from training import RankedOptimizer, RankFailed, Swarm, join

STEPS = 6
GLOBAL_BATCH = 96
PATIENCE_S = 30.0
DTYPE = torch.float64
# This rank's micro-batch with this number has a gradient that is none.
BAD: Batch = (1, 2)


def run(options: dict[str, Any]) -> None:
    """The process: `index` counts the ranks of all peers."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    folder, rank = Path(options["folder"]), options["rank"]
    store = f"file://{folder}/store-{options['peer']}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    with ExitStack() as stack:
        swarm = None
        if rank == 0:
            swarm = stack.enter_context(join("ranks", initial_peers=options["initial_peers"]))
        train(options, swarm)
    distributed.destroy_process_group()


def train(options: dict[str, Any], swarm: Swarm | None) -> None:
    """The same calls on each rank."""
    index, folder = options["index"], Path(options["folder"])
    model = make_model(DTYPE)
    if options["rank"] == 1:
        # Not what rank 0 has; it is replaced.
        torch.nn.init.ones_(model[0].weight)
    own = make_optimizer(model)
    optimizer = RankedOptimizer(
        own if swarm is None else swarm.optimizer(own, model=model, global_batch=GLOBAL_BATCH),
        model=model,
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    if swarm is not None:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(swarm.peers) < 2:
            assert time.monotonic() < deadline_s, "the other peer did not come"
            time.sleep(0.01)
    optimizer.synchronize()
    steps: list[list[Batch]] = []
    batches: list[Batch] = []
    number = 0
    while optimizer.global_step < STEPS:
        samples = backward(model, (index, number), DTYPE)
        if (index, number) == BAD:
            model[2].weight.grad.fill_(float("inf"))
        report = optimizer.step(samples=samples)
        assert report.skipped == ((index, number) == BAD)
        if not report.skipped:
            batches.append((index, number))
        number += 1
        assert not report.failure
        if report.stepped:
            assert report.round is not None
            assert len(report.round.members) == 2
            steps.append(batches)
            batches = []
            scheduler.step()
    backward(model, (index, number), DTYPE)
    expect_errors(optimizer, options["rank"], swarm)
    torch.save(dict(model.named_parameters()), folder / f"{index}.pt")
    (folder / f"{index}.json").write_text(json.dumps(steps))


def expect_errors(optimizer: RankedOptimizer, rank: int, swarm: Swarm | None) -> None:
    """One rank's mistake is told by both, and so is rank 0's trouble."""
    with pytest.raises(ValueError, match="another rank" if rank == 0 else "at least 1, not 0"):
        optimizer.step(samples=4 if rank == 0 else 0)
    if swarm is not None:
        while any(peer.step < STEPS for peer in swarm.peers):
            time.sleep(0.01)
        swarm.close()
    with pytest.raises(PortalClosed if rank == 0 else RankFailed) as told:
        optimizer.reaverage()
    assert rank == 0 or "PortalClosed" in str(told.value)
