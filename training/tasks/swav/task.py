"""The task of SwAV: each crop must tell the cluster that another crop of its picture is in.

B  pictures     D  embedding     K  prototypes     Q  embeddings in the queue
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.data import ShuffledOrder
from training.tasks.swav.crops import CropPlan, make_crops
from training.tasks.swav.images import Images
from training.tasks.swav.model import SwavModel
from training.tasks.swav.probes import knn_accuracy, probe_accuracy
from training.tasks.swav.sinkhorn import assign

_ENCODED_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class SwavConfig:
    """Numbers of the loss."""

    temperature: float = 0.1
    """Of the softmax over prototypes; section 4 of the publication."""
    epsilon: float = 0.05
    """Of the assignment; appendix A."""
    iterations: int = 3
    """Of the assignment; appendix A."""
    queue_size: int = 0
    """Embeddings of earlier pictures that take part in the assignment of small micro-batches."""
    queue_after: int = 0
    """Samples that this peer computes before its queue takes part; section 4: not at first."""
    judged_count_max: int = 5000
    """Pictures at most that are encoded to judge, of either kind."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.epsilon <= 0 or self.iterations < 1:
            raise ValueError("temperature and epsilon are above 0, iterations at least 1")
        if min(self.queue_size, self.queue_after) < 0 or self.judged_count_max < 2:
            raise ValueError("sizes of the queue are not below 0, and two pictures must be judged")


@dataclass(frozen=True)
class CropBatch:
    """Crops of one micro-batch's pictures."""

    crops: tuple[torch.Tensor, ...]
    """First the large ones, then the small ones; each (B, C, side, side)."""
    large_count: int
    drawn: int
    """Samples that the peer drew before."""


class CropBatches:
    """A peer's own order of the pictures, and its own crops of them."""

    def __init__(
        self, images: Images, plan: CropPlan, order: ShuffledOrder, *, seed: int, peer_id: str
    ) -> None:
        self._images = images
        self._plan = plan
        self._order = order
        self._name = f"{seed}/{peer_id}/crops"

    @property
    def drawn(self) -> int:
        """How many pictures were drawn."""
        return self._order.drawn

    def next_batch(self, size: int) -> CropBatch:
        """Crops of so many pictures; the chance is that of the micro-batch's first sample."""
        drawn = self._order.drawn
        seed = hashlib.sha256(f"{self._name}/{drawn}".encode()).digest()[:8]
        chance = torch.Generator().manual_seed(int.from_bytes(seed) % 2**63)
        images = self._images.load(self._order.next_batch(size))
        return CropBatch(make_crops(images, self._plan, chance), self._plan.large_count, drawn)


class Swav:
    """Learns from pictures without labels; k nearest neighbours and a linear probe judge it.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020. Assignments are made within one peer's micro-batch and queue; a queue is
    each peer's own, and a resumed peer fills it anew.
    """

    def __init__(self, train: Images, test: Images, plan: CropPlan, config: SwavConfig) -> None:
        self._train = train
        self._test = test
        self._plan = plan
        self._config = config
        self._queues: list[torch.Tensor] = []

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> CropBatches:
        """All training pictures again and again, shuffled anew for each pass, in new crops."""
        order = ShuffledOrder(
            example_count=len(self._train.labels), seed=seed, peer_id=peer_id, drawn=drawn
        )
        return CropBatches(self._train, self._plan, order, seed=seed, peer_id=peer_id)

    def loss(self, model: nn.Module, batch: CropBatch) -> torch.Tensor:
        """Cross entropy between assignments of large crops and scores of all others.

        Puts the embeddings of the large crops in the queue.
        """
        assert isinstance(model, SwavModel), "SwAV trains a SwavModel"
        dtype = model.prototypes.dtype
        # Crops of one size go through the encoder together.
        sizes = (batch.crops[: batch.large_count], batch.crops[batch.large_count :])
        embeddings = torch.cat([model(torch.cat(crops).to(dtype)) for crops in sizes if crops])
        scores = model.score(embeddings).chunk(len(batch.crops))
        log_shares = [
            nn.functional.log_softmax(score / self._config.temperature, dim=1) for score in scores
        ]
        total = embeddings.new_zeros(())
        for number in range(batch.large_count):
            assigned_BK = self._assigned(model, number, scores[number].detach(), batch.drawn)
            for other, log_BK in enumerate(log_shares):
                if other != number:
                    total = total - (assigned_BK * log_BK).sum(dim=1).mean()
        self._remember(embeddings.detach().chunk(len(batch.crops))[: batch.large_count])
        return total / (batch.large_count * (len(scores) - 1))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Shares of test pictures whose class the frozen features tell."""
        assert isinstance(model, SwavModel), "SwAV trains a SwavModel"
        known, known_labels = self._features(model, self._train)
        judged, judged_labels = self._features(model, self._test)
        return {
            "knn_accuracy": knn_accuracy(known, known_labels, judged, judged_labels),
            "linear_probe": probe_accuracy(known, known_labels, judged, judged_labels),
        }

    def _assigned(
        self, model: SwavModel, number: int, scores_BK: torch.Tensor, drawn: int
    ) -> torch.Tensor:
        """The assignment of one large crop of each picture, together with the full queue."""
        config = self._config
        all_scores = scores_BK
        if self._queues and drawn >= config.queue_after:
            queue_QD = self._queues[number]
            if len(queue_QD) == config.queue_size:
                with torch.no_grad():
                    all_scores = torch.cat([scores_BK, model.score(queue_QD)])
        assigned = assign(all_scores, epsilon=config.epsilon, iterations=config.iterations)
        return assigned[: len(scores_BK)]

    def _remember(self, embeddings: tuple[torch.Tensor, ...]) -> None:
        """Put embeddings first in the queues, one for each large crop; the oldest fall out."""
        if not self._config.queue_size:
            return
        old = self._queues or [new[:0] for new in embeddings]
        self._queues = [
            torch.cat([new, before])[: self._config.queue_size]
            for new, before in zip(embeddings, old, strict=True)
        ]

    def _features(
        self, model: SwavModel, images: Images
    ) -> tuple[torch.Tensor, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Features of pictures that are spread over all, and their labels."""
        count = min(len(images.labels), self._config.judged_count_max)
        indices = np.linspace(0, len(images.labels) - 1, count).astype(np.int64)
        features = [
            model.encode(
                images.load(indices[begin : begin + _ENCODED_AT_ONCE]).to(model.prototypes.dtype)
            )
            for begin in range(0, count, _ENCODED_AT_ONCE)
        ]
        return torch.cat(features), images.labels[indices]
