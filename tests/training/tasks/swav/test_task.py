"""The loss of swapped assignments, its queue, and batches that resume."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training.tasks.swav import CropPlan, StoredImages, Swav, SwavConfig, SwavModel
from training.tasks.swav.sinkhorn import assign
from training.tasks.swav.task import CropBatch

PLAN = CropPlan(large_side=4, small_side=3, small_count=1, jitter=0.0, flip=False)


def images(count: int = 12) -> StoredImages:
    pixels = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return StoredImages(pixels, np.arange(count) % 2)


def task(**config: Any) -> Swav:
    return Swav(images(), images(4), PLAN, SwavConfig(**config))


def make_model() -> SwavModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return SwavModel(encoder, nn.Linear(4, 3), size=3, count=5).double()


def crops(drawn: int = 0, seed: int = 1) -> CropBatch:
    chance = torch.Generator().manual_seed(seed)
    sides = (4, 4, 3)
    made = tuple(torch.rand(6, 1, side, side, generator=chance) for side in sides)
    return CropBatch(made, 2, drawn)


def test_the_loss_is_that_of_the_publication() -> None:
    model, batch = make_model(), crops()
    scores = [model.score(model(crop.double())).detach() for crop in batch.crops]
    terms = []
    for target in (0, 1):
        shares = assign(scores[target], epsilon=0.05, iterations=3)
        for other in range(3):
            if other != target:
                logs = torch.log_softmax(scores[other] / 0.1, dim=1)
                terms.append(-(shares * logs).sum(dim=1).mean())
    loss = task().loss(model, batch)
    assert float(loss.detach()) == pytest.approx(float(sum(terms)) / 4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_queue_takes_part_when_it_is_full_and_due() -> None:
    model = make_model()

    def losses(**config: Any) -> list[float]:
        trained = task(**config)
        return [float(trained.loss(model, crops(6 * n, seed=n)).detach()) for n in range(4)]

    without, with_queue = losses(), losses(queue_size=8)
    assert with_queue[:2] == without[:2], "12 embeddings are first there after two batches"
    assert with_queue[2] != without[2]
    assert losses(queue_size=8, queue_after=18)[:3] == without[:3]
    assert losses(queue_size=8, queue_after=18)[3] == with_queue[3]


def test_the_queue_holds_the_latest_embeddings() -> None:
    model = make_model()
    trained = task(queue_size=8)
    for number in range(3):
        trained.loss(model, crops(6 * number, seed=number))
    expected = []
    for large in (0, 1):
        latest = [model(crops(seed=n).crops[large].double()).detach() for n in (2, 1)]
        expected.append(torch.cat(latest)[:8])
    scores = [model.score(model(crop.double())).detach() for crop in crops(seed=3).crops]
    terms = []
    for target in (0, 1):
        together = torch.cat([scores[target], model.score(expected[target]).detach()])
        shares = assign(together, epsilon=0.05, iterations=3)[:6]
        terms += [
            -(shares * torch.log_softmax(scores[other] / 0.1, dim=1)).sum(dim=1).mean()
            for other in range(3)
            if other != target
        ]
    loss = trained.loss(model, crops(18, seed=3))
    assert float(loss.detach()) == pytest.approx(float(sum(terms)) / 4)


def test_a_resumed_peer_draws_the_same_crops() -> None:
    whole = task().batches(seed=3, peer_id="alice", drawn=0)
    first, second = whole.next_batch(4), whole.next_batch(4)
    assert (first.drawn, second.drawn, whole.drawn) == (0, 4, 8)
    resumed = task().batches(seed=3, peer_id="alice", drawn=4).next_batch(4)
    assert all(torch.equal(a, b) for a, b in zip(resumed.crops, second.crops, strict=True))
    bob = task().batches(seed=3, peer_id="bob", drawn=4).next_batch(4)
    assert not torch.equal(bob.crops[0], second.crops[0])
    assert [tuple(crop.shape) for crop in first.crops] == [(4, 1, 4, 4)] * 2 + [(4, 1, 3, 3)]


def test_figures_are_shares() -> None:
    model = make_model().eval()
    with torch.no_grad():
        figures = task().evaluate(model)
    assert sorted(figures) == ["knn_accuracy", "linear_probe"]
    assert all(0 <= figure <= 1 for figure in figures.values())


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.0}, {"iterations": 0}, {"queue_size": -1}, {"judged_count_max": 1}],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|below 0"):
        dataclasses.replace(SwavConfig(), **changes)
