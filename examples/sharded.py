"""Two processes that share out one model with fully_shard() and are one peer of a swarm together.

torchrun --nproc-per-node 2 examples/sharded.py [ADDRESS OF A PEER]
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import training

STEPS = 60


def train(swarm: training.Swarm | None) -> None:
    """The same in all processes; only the first one has the swarm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    # On GPUs "cuda", and the backend "nccl" below.
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    optimizer = training.RankedOptimizer(
        swarm.optimizer(plain, model=model, global_batch=64) if swarm else plain, model=model
    )
    numbers = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
    optimizer.synchronize()
    while optimizer.global_step < STEPS:
        inputs = torch.randn(32, 8, generator=numbers)
        loss = (model(inputs).squeeze(1) - inputs.mean(dim=1)).square().mean()
        loss.backward()
        optimizer.step(samples=len(inputs))
        optimizer.zero_grad()
    if swarm is not None:
        print(f"global step {optimizer.global_step}, loss {loss.item():.3f}")


def main(initial_peers: list[str]) -> None:
    """Join in the first process, and train in all."""
    dist.init_process_group("gloo")
    try:
        if dist.get_rank() == 0:
            with training.join("sharded", initial_peers=initial_peers) as swarm:
                train(swarm)
        else:
            train(None)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
