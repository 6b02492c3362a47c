"""A clinic and a server train one network; images and labels never leave the clinic.

python examples/split_learning.py server
python examples/split_learning.py clinic ADDRESS OF THE SERVER
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

from training import split

BATCH, STEPS = 32, 150


def make_parts() -> split.Parts:
    """The same on both sides: the clinic has the first layers and the last one."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(64, 32), nn.ReLU()),
        *(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()),
        nn.Linear(32, 10),
    )
    return split.cut(model, (2, 6), example=torch.zeros(1, 64))


def serve() -> None:
    """Train the layers in the middle with one clinic, until it says goodbye."""
    parts = make_parts()
    assert parts.body is not None
    optimizer = torch.optim.Adam(parts.body.parameters(), lr=0.01)
    with split.serve("clinics", parts, optimizer=optimizer) as server:
        print("join with:", server.addresses[0], flush=True)
        done = server.run(clients=1)
    print(f"trained on {done.batches} batches, of which it saw no image and no label")


def train(address: str) -> None:
    """Train the first and the last layers on images of our own."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    parts = make_parts()
    (front,) = parts.fronts
    assert front is not None
    assert parts.tail is not None
    ours = [*front.parameters(), *parts.tail.parameters()]
    optimizer = torch.optim.Adam(ours, lr=0.01)
    order = torch.Generator().manual_seed(0)
    loss_of = nn.functional.cross_entropy
    with split.connect(
        "clinics", parts, optimizer=optimizer, loss=loss_of, initial_peers=[address]
    ) as server:
        for _ in range(STEPS):
            chosen = torch.randint(1500, (BATCH,), generator=order)
            server.step(images[chosen], labels[chosen])
        right = server.predict(images[1500:]).argmax(dim=1) == labels[1500:]
        moved = server.traffic.payload_bytes_sent + server.traffic.payload_bytes_received
    print(f"accuracy {right.float().mean():.2f}, {moved / 1e6:.1f} MB to and fro")


if __name__ == "__main__":
    if sys.argv[1:] == ["server"]:
        serve()
    elif len(sys.argv) == 3 and sys.argv[1] == "clinic":
        train(sys.argv[2])
    else:
        sys.exit(__doc__)
