"""What a recipe trains on: batches, their loss, and figures that say how well it went.

A recipe's data function returns a task, or labelled data, of which a classification task is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from training.data.shares import ShardNews


class Batches(Protocol):
    """One peer's endless walk through the training samples, in an order of its own."""

    @property
    def drawn(self) -> int:
        """How many samples were drawn since the run began: a checkpoint keeps it."""

    def next_batch(self, size: int) -> Any:
        """The next so many samples, in whatever form the task's loss takes them."""


class Share(Protocol):
    """A peer's part of data that the peers divide: training/data/shares.py."""

    def on_peers(self, live: Sequence[str]) -> None:
        """Who is there."""

    def on_news(self, peer_id: str, news: ShardNews) -> None:
        """What another peer tells of its work."""

    def news(self) -> ShardNews:
        """What the others should hear."""

    def state_dict(self) -> dict[str, Any]:
        """Where this peer is; plain numbers, strings, lists and tables, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            CheckpointError: it is of other data.
        """


@runtime_checkable
class SharedBatches(Batches, Protocol):
    """Batches that may come out of a share."""

    @property
    def share(self) -> Share | None:
        """None where each peer walks through all samples."""


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


def share_of(batches: Batches) -> Share | None:
    """The share that the batches come out of, if they do."""
    return batches.share if isinstance(batches, SharedBatches) else None


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
