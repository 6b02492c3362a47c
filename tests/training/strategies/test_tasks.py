"""Simulated tasks: each worker draws from its own shard only."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from training.data import IndexArray, LabelledData
from training.strategies.tasks import ClassifierTask, digits_task


def task_with(shards: list[IndexArray] | None) -> ClassifierTask:
    """Example k is the number k, and its class whether it is odd."""
    inputs = torch.arange(8.0).unsqueeze(1)
    labels = torch.arange(8) % 2
    data = LabelledData(
        train_inputs=inputs, train_labels=labels, test_inputs=inputs, test_labels=labels
    )
    return ClassifierTask(data, lambda: nn.Linear(1, 2), workers=2, batch=4, seed=0, shards=shards)


def only(task: ClassifierTask, worker: int, examples: list[int]) -> bool:
    """Whether a mini-batch of four has just these; seen by its loss."""
    parameters = np.array([0.3, -0.2, 0.7, 0.1], np.float32)
    inputs = torch.tensor(examples, dtype=torch.float32).unsqueeze(1)
    bias, weight = torch.from_numpy(parameters).split([2, 2])
    scores = inputs @ weight.view(1, 2) + bias
    expected = nn.functional.cross_entropy(scores, torch.tensor(examples) % 2)
    return bool(np.isclose(task.loss(parameters, worker, 0), float(expected)))


def test_without_shards_every_so_manieth_example_is_a_workers() -> None:
    task = task_with(None)
    assert only(task, 0, [0, 2, 4, 6])
    assert only(task, 1, [1, 3, 5, 7])


def test_shards_say_whose_an_example_is() -> None:
    task = task_with([np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7])])
    assert only(task, 0, [0, 1, 2, 3])
    assert only(task, 1, [4, 5, 6, 7])
    assert not only(task, 1, [1, 3, 5, 7])


def test_digits_may_be_unequal() -> None:
    alike = digits_task(workers=4, seed=0)
    unequal = digits_task(workers=4, seed=0, concentration=0.1)
    start = alike.start(0)
    assert np.array_equal(start, unequal.start(0))
    losses = [[task.loss(start, worker, 0) for worker in range(4)] for task in (alike, unequal)]
    assert np.std(losses[1]) > 2 * np.std(losses[0])
