"""Federated averaging whose updates nobody sees: three peers, each with digits of its own.

python examples/secure_federated.py

Here the peers are threads of one process. In life each is a program of its own, on a machine of its
own, which joins through the address of any other.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from sklearn.datasets import load_digits
from torch import nn

import training
from training.strategies import FederatedAveraging, SecureExchange

PEERS = 3
EXCHANGES = 15
STRATEGY = FederatedAveraging(every=8, fraction=1.0)
# A peer takes some 8 steps of 32 samples between two exchanges; if it takes more, they fit, too.
SECURE = SecureExchange(samples_max=1024)


def train(swarm: training.Swarm, number: int, model: nn.Module) -> str:
    """Train on a third of the digits until the last exchange; returns what all hold alike."""
    digits = load_digits()
    images = torch.tensor(digits.data[number:1500:PEERS] / 16).float()
    labels = torch.tensor(digits.target[number:1500:PEERS])
    plain = torch.optim.SGD(model.parameters(), lr=0.3)
    optimizer = swarm.optimizer(plain, model=model, strategy=STRATEGY, secure=SECURE)
    # Masks may hide the same update only once, so each peer draws its samples at random.
    numbers = torch.Generator().manual_seed(number)
    while optimizer.global_step < EXCHANGES:
        chosen = torch.randint(len(images), (32,), generator=numbers)
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        report = optimizer.step(samples=len(chosen))
        optimizer.zero_grad()
        if report.stepped and report.round is not None and number == 0:
            summed = report.round
            told = f"{summed.weight_sum:.0f} samples of {len(summed.members)} peers"
            print(f"exchange {report.global_step}: {told}, whose updates nobody saw", flush=True)
    return optimizer.state_hash()


def main() -> None:
    """Join three times, train in three threads, and judge what came of it."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in range(PEERS)]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    swarms = [training.join("secure-federated")]
    for _ in range(1, PEERS):
        swarms.append(training.join("secure-federated", initial_peers=swarms[0].addresses))
    with ThreadPoolExecutor(PEERS) as pool:
        hashes = list(pool.map(train, swarms, range(PEERS), models))
    for swarm in swarms:
        swarm.close()
    digits = load_digits()
    images, labels = torch.tensor(digits.data[1500:] / 16).float(), digits.target[1500:]
    right = (models[0](images).argmax(dim=1).numpy() == labels).mean()
    print(f"accuracy {right:.2f}, the same at all: {len(set(hashes)) == 1}")


if __name__ == "__main__":
    main()
