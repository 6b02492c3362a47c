"""Workers of one process that learn digits together, with gradients that pass a codec."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tools.bench.compression.uplinks import Uplinks
from training.strategies.tasks import ClassifierTask, digits_task

WORKERS = 8
SAMPLES = 16
RATE = 0.2
Look = Callable[[Uplinks, torch.Tensor], None]
"""Gets the uplinks and the first worker's gradient, before it is sent."""


def make_perceptron() -> nn.Module:
    """64-128-64-10 with ReLU: 17 226 parameters."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


class Learning:
    """Plain descent from the same parameters, whatever the codec.

    Args:
        codec, feedback: as `Uplinks` has them.
        seed: of the parameters, of the order of the samples and of the codec's chance.
    """

    def __init__(self, codec: str, feedback: str, seed: int) -> None:
        self._task: ClassifierTask = digits_task(
            workers=WORKERS, seed=seed, batch=SAMPLES, make_model=make_perceptron
        )
        self._point = torch.from_numpy(self._task.start(seed))
        self.uplinks = Uplinks(codec, feedback, WORKERS, len(self._point), seed)
        self.steps = 0

    def run(self, steps: int, look: Look | None = None) -> None:
        """So many more steps."""
        for _ in range(steps):
            point = self._point.numpy()
            vectors = [
                torch.from_numpy(self._task.gradient(point, worker, self.steps)[1])
                for worker in range(WORKERS)
            ]
            if look is not None:
                look(self.uplinks, vectors[0])
            self._point = self._point - RATE * self.uplinks.mean(vectors)
            self.steps += 1

    @property
    def accuracy(self) -> float:
        """On the test set."""
        return self._task.accuracy(self._point.numpy())

    @property
    def loss(self) -> float:
        """On the training set."""
        return self._task.train_loss(self._point.numpy())


def gradients(codec: str, snapshots: int, every: int, seed: int = 0) -> list[torch.Tensor]:
    """What one worker would encode, with what it owes, after each so many steps of learning."""
    learning = Learning(codec, "ef", seed)
    taken: list[torch.Tensor] = []

    def look(uplinks: Uplinks, vector: torch.Tensor) -> None:
        if learning.steps % every == every - 1:
            taken.append(uplinks.compensated(0, vector).clone())

    learning.run(snapshots * every, look)
    return taken
