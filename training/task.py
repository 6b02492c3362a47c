"""What a recipe trains on: batches, their loss, and figures that say how well it went.

A recipe's data function returns a task, or labelled data, of which a classification task is made.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


class Batches(Protocol):
    """One peer's endless walk through the training samples, in an order of its own."""

    @property
    def drawn(self) -> int:
        """How many samples were drawn since the run began: a checkpoint keeps it."""

    def next_batch(self, size: int) -> Any:
        """The next so many samples, in whatever form the task's loss takes them."""


@runtime_checkable
class Task(Protocol):
    """What is trained, apart from the model."""

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> Batches:
        """A peer's batches, going on after so many samples drawn.

        All chance comes from these three, so that a resumed peer draws what it would have drawn.
        """

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss over the samples of a batch, a scalar to call backward() on.

        It should be a mean of one number per sample: then the average over all peers, which is
        weighted by samples, is what one machine would compute on all their samples.
        """

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures on data that no peer trains on, by name, such as {"accuracy": 0.97}.

        Called without gradients and with the model in evaluation mode.
        """


def evaluate(task: Task, model: nn.Module) -> dict[str, float]:
    """The task's figures, rounded to six digits; the model's mode is as before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            figures = task.evaluate(model)
    finally:
        model.train(was_training)
    return {name: round(float(figure), 6) for name, figure in figures.items()}
