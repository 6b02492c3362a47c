"""One process of a group, for test_ddp: trains a line with the others, then fails on purpose.

python -m tests.training.plugins.group_member RANK FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.training.plugins.lines import Line, Points, momentum
from training import join
from training.plugins.ddp import FirstProcessFailed, ProcessGroupOptimizer

SIZE = 2
STEPS = 3
# What each process computes in one pass: together two passes are a global batch.
PASS = (4, 12)


def backward(
    optimizer: ProcessGroupOptimizer,
    model: DistributedDataParallel,
    chosen: torch.Tensor,
    *,
    scale: float = 1.0,
) -> None:
    """One pass over some points."""
    points = Points()
    optimizer.micro_batch(samples=len(chosen))
    (scale * model(points.inputs[chosen], points.wanted[chosen])["loss"]).backward()


def train(optimizer: ProcessGroupOptimizer, model: DistributedDataParallel, rank: int) -> None:
    """Three global steps of two passes each, and what each of them said."""
    number = 0
    for call in range(2 * STEPS):
        begin = number + (0 if rank == 0 else PASS[0])
        number += sum(PASS)
        chosen = torch.arange(begin, begin + PASS[rank])
        if call % 2 == 0:
            backward(optimizer, model, chosen)
        else:
            one, other = chosen.chunk(2)
            with model.no_sync():
                backward(optimizer, model, one, scale=0.5)
            backward(optimizer, model, other, scale=0.5)
        report = optimizer.step()
        optimizer.zero_grad()
        assert report.stepped == (call % 2 == 1)
        assert report.samples == sum(PASS) * (1 + call % 2)
        assert report.global_step == optimizer.global_step == (call + 1) // 2
        assert (report.swarm is not None) == (rank == 0)


def fail(optimizer: ProcessGroupOptimizer, rank: int) -> str:
    """The first process fails in step(), as nothing was computed; the others are told."""
    try:
        optimizer.step()
    except (ValueError, FirstProcessFailed) as exc:
        return type(exc).__name__
    return f"process {rank} was not told"


def main(rank: int, folder: Path) -> None:
    """Train, fail, and write what it came to."""
    store = dist.FileStore(str(folder / "store"), SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE)
    # Different beginnings: DDP gives all the first one's.
    model = DistributedDataParallel(Line(seed=rank))
    with join("lines") if rank == 0 else nullcontext() as swarm:
        optimizer = ProcessGroupOptimizer(
            momentum(model), model=model, swarm=swarm, global_batch=2 * sum(PASS)
        )
        train(optimizer, model, rank)
        said = {
            "parameters": [parameter.tolist() for parameter in model.module.parameters()],
            "failure": fail(optimizer, rank),
        }
    (folder / f"{rank}.json").write_text(json.dumps(said))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # Threads of gloo may outlive the group, and abort the interpreter as it ends.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
