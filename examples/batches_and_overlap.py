"""A batch that grows, a learning rate that follows it, and rounds while the next batch is computed.

Start it in one terminal, and with the address that it prints in another:

    python examples/batches_and_overlap.py
    python examples/batches_and_overlap.py ADDRESS
"""

import sys

import torch
from torch import nn

from training import RampBatch, join

STEPS = 20
MICRO_BATCH = 16


def main() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    secret = torch.randn(8, 1)
    with join("batches-and-overlap", initial_peers=sys.argv[1:]) as swarm:
        print(f"join with: {swarm.addresses[0]}", flush=True)
        optimizer = swarm.optimizer(
            torch.optim.SGD(model.parameters(), lr=0.05),
            model=model,
            global_batch=RampBatch(first=16, last=64, steps=10, kind="doubling"),
            lr_rule="linear",
            delayed=True,
        )
        while optimizer.global_step < STEPS:
            inputs = torch.randn(MICRO_BATCH, 8)
            loss = nn.functional.mse_loss(model(inputs), inputs @ secret)
            loss.backward()
            report = optimizer.step(samples=MICRO_BATCH)
            optimizer.zero_grad()
            if report.stepped:
                print(
                    f"step {report.global_step}: loss {loss.item():.4f}, next batch "
                    f"{report.target}, waited {1000 * report.waited_s:.0f} ms"
                )


if __name__ == "__main__":
    main()
