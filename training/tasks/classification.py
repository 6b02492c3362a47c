"""Classification: cross entropy on labelled examples, judged by the share that is right."""

from __future__ import annotations

import torch
from torch import nn

from training.data import LabelledData, ShuffledOrder

Batch = tuple[torch.Tensor, torch.Tensor]


class ClassificationBatches:
    """Inputs and labels in a peer's own order."""

    def __init__(self, data: LabelledData, order: ShuffledOrder) -> None:
        self._data = data
        self._order = order

    @property
    def drawn(self) -> int:
        """How many examples were drawn."""
        return self._order.drawn

    def next_batch(self, size: int) -> Batch:
        """Inputs (size, …) and labels (size)."""
        chosen = torch.from_numpy(self._order.next_batch(size))
        return self._data.train_inputs[chosen], self._data.train_labels[chosen]


class Classification:
    """The task of a recipe whose data function returns labelled data."""

    def __init__(self, data: LabelledData) -> None:
        self.data = data

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> ClassificationBatches:
        """All training examples again and again, shuffled anew for each pass."""
        order = ShuffledOrder(
            example_count=len(self.data.train_inputs), seed=seed, peer_id=peer_id, drawn=drawn
        )
        return ClassificationBatches(self.data, order)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross entropy of the scores, one for each class."""
        inputs, labels = batch
        return nn.functional.cross_entropy(model(inputs), labels)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The share of the test examples whose highest score is that of their label."""
        right = model(self.data.test_inputs).argmax(dim=1) == self.data.test_labels
        return {"accuracy": float(right.double().mean())}
