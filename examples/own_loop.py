"""An ordinary loop of PyTorch that trains with whoever else does.

python examples/own_loop.py [ADDRESS OF A PEER]
"""

import sys
import zlib

import torch
from sklearn.datasets import load_digits
from torch import nn

import training

STEPS = 60


def main(initial_peers: list[str]) -> None:
    """Train for sixty global steps, whoever takes part."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    plain = torch.optim.AdamW(model.parameters(), lr=0.01)
    contributed = 0
    with training.join("own-loop", initial_peers=initial_peers) as swarm:
        print("join with:", swarm.addresses[0], flush=True)
        # Every peer draws other examples: nobody hands them out.
        numbers = torch.Generator().manual_seed(zlib.crc32(swarm.peer_id.encode()))
        optimizer = swarm.optimizer(plain, model=model, global_batch=128)
        while swarm.global_step < STEPS:
            chosen = torch.randint(1500, (32,), generator=numbers)
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()
            report = optimizer.step(samples=len(chosen))
            optimizer.zero_grad()
            if report.stepped:
                contributed += report.samples
                swarm.tell(samples=contributed, loss=loss.item())
        right = (model(images[1500:]).argmax(dim=1) == labels[1500:]).float().mean()
        print(f"global step {swarm.global_step}, accuracy {right:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
