"""Two processes with DistributedDataParallel that are one peer of a swarm together.

torchrun --nproc-per-node 2 examples/process_group.py [ADDRESS OF A PEER]
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import training
from training.plugins.ddp import ProcessGroupOptimizer

STEPS = 40


def train(swarm: training.Swarm | None) -> None:
    """The same in all processes; only the first one has the swarm."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(8, 1))
    wanted = torch.arange(8.0)
    optimizer = ProcessGroupOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.2), model=model, swarm=swarm, global_batch=64
    )
    numbers = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
    optimizer.synchronize()
    while optimizer.global_step < STEPS:
        # Batches of unequal size weigh as much as they have samples.
        inputs = torch.randn(8 + 8 * dist.get_rank(), 8, generator=numbers)
        optimizer.micro_batch(samples=len(inputs))
        loss = (model(inputs).squeeze(1) - inputs @ wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if swarm is not None:
        print(f"global step {optimizer.global_step}, loss {loss.item():.3f}")


def main(initial_peers: list[str]) -> None:
    """Join in the first process, and train in all."""
    dist.init_process_group("gloo")
    try:
        if dist.get_rank() == 0:
            with training.join("process-group", initial_peers=initial_peers) as swarm:
                train(swarm)
        else:
            train(None)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
    # PyTorch's DDP keeps threads of the group, which may abort the interpreter as it ends.
    sys.stdout.flush()
    os._exit(0)
