"""Classifiers as tasks of a simulated swarm: flat parameters in, loss and flat gradient out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from training.data import IndexArray, LabelledData, ShuffledOrder, dirichlet_shards
from training.recipes.digits import load_data
from training.strategies.flat import FlatLayout, FlatParameters
from training.strategies.strategy import Vector


def digits_task(
    *,
    workers: int,
    seed: int,
    batch: int = 32,
    concentration: float | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> ClassifierTask:
    """Handwritten digits, standardised, for a model of 64 inputs.

    Args:
        concentration: of the Dirichlet distribution by which workers' classes differ; None: each
            has a part of all.
        make_model: None for a perceptron 64-64-32-10 with tanh.
    """
    data = standardised_digits()
    shards = None
    if concentration is not None:
        labels = data.train_labels.numpy()
        shards = dirichlet_shards(
            labels, workers=workers, concentration=concentration, seed=seed, smallest=batch
        )
    make_model = make_model or make_perceptron
    return ClassifierTask(data, make_model, workers=workers, batch=batch, seed=seed, shards=shards)


def standardised_digits() -> LabelledData:
    """Handwritten digits as flat float32 vectors of mean 0 and deviation 1 over all pixels."""
    data = load_data()
    mean, deviation = data.train_inputs.mean(), data.train_inputs.std()

    def pixels(inputs: torch.Tensor) -> torch.Tensor:
        return ((inputs - mean) / deviation).flatten(1).to(torch.float32)

    return replace(
        data, train_inputs=pixels(data.train_inputs), test_inputs=pixels(data.test_inputs)
    )


def make_perceptron() -> nn.Module:
    """64-64-32-10 with tanh, 6 570 parameters."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)
    )


class ClassifierTask:
    """Each worker has a shard of the training examples and draws mini-batches from it.

    Args:
        data: all examples.
        make_model: makes the model; called under a seed for each start.
        workers: how many shards; without any, worker w has the examples w, w + W, w + 2W, …
        batch: samples in a mini-batch.
        seed: decides the order of the examples.
        shards: the indices of each worker's examples.
    """

    def __init__(
        self,
        data: LabelledData,
        make_model: Callable[[], nn.Module],
        *,
        workers: int,
        batch: int,
        seed: int,
        shards: Sequence[IndexArray] | None = None,
    ) -> None:
        self._data = data
        self._make_model = make_model
        every = np.arange(len(data.train_labels))
        self._shards = shards or [every[worker::workers] for worker in range(workers)]
        self._batch = batch
        self._seed = seed
        with torch.random.fork_rng(devices=[]):
            self._model = make_model()
        self._layout = FlatLayout(dict(sorted(self._model.named_parameters())))
        self._batches: dict[int, tuple[int, torch.Tensor]] = {}
        self._orders = [
            ShuffledOrder(example_count=len(shard), seed=seed, peer_id=str(worker))
            for worker, shard in enumerate(self._shards)
        ]

    def start(self, seed: int) -> Vector:
        """First parameters by this seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._make_model()
        return FlatParameters(dict(sorted(model.named_parameters()))).read()

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """The mean loss of a mini-batch, and its gradient."""
        flat_E = torch.from_numpy(parameters_E).requires_grad_()
        loss = self._loss(flat_E, *self._examples(worker, step))
        (gradient_E,) = torch.autograd.grad(loss, flat_E)
        return loss.item(), gradient_E.numpy()

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """The mean loss of the same mini-batch."""
        with torch.no_grad():
            return self._loss(torch.from_numpy(parameters_E), *self._examples(worker, step)).item()

    def samples(self, worker: int, step: int) -> int:
        """The size of a mini-batch."""
        return self._batch

    def train_loss(self, parameters_E: Vector) -> float:
        """The mean loss over all training examples."""
        with torch.no_grad():
            data = self._data
            flat_E = torch.from_numpy(parameters_E)
            return self._loss(flat_E, data.train_inputs, data.train_labels).item()

    def accuracy(self, parameters_E: Vector) -> float:
        """The part of the test examples that is classified rightly."""
        with torch.no_grad():
            scores = self._scores(torch.from_numpy(parameters_E), self._data.test_inputs)
            return float((scores.argmax(dim=1) == self._data.test_labels).double().mean())

    def _examples(self, worker: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The mini-batch of a step; steps of a worker are asked for in their order."""
        if self._batches.get(worker, (-1, None))[0] != step:
            drawn = self._orders[worker].next_batch(self._batch)
            indices = torch.from_numpy(self._shards[worker][drawn])
            self._batches[worker] = (step, indices)
        indices = self._batches[worker][1]
        return self._data.train_inputs[indices], self._data.train_labels[indices]

    def _scores(self, flat_E: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = functional_call(self._model, self._layout.split(flat_E), (inputs,))
        return scores

    def _loss(
        self, flat_E: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return nn.functional.cross_entropy(self._scores(flat_E, inputs), labels)
