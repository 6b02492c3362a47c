"""The modes in which clients compute the whole model: central, large batch, federated, with noise.

All clients are computed in this process one after the other, so seconds are those of all together.
Sums behind masks go over sockets between real nodes, encrypted ones through real ciphertexts; what
the others would send is counted, as peers send it.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from averaging import HomomorphicSpec, adder_untrusted, draw_key
from tools.bench.private.dp import cross_entropy, private_name, train_privately
from tools.bench.private.frame import (
    BATCH,
    CLIENTS,
    RATE,
    RIDGE,
    Frame,
    Shown,
    counted_flops,
    row_of,
    sgd,
)
from tools.bench.private.masked import MaskedMeans
from tools.bench.report import Row
from training.data import dirichlet_shards
from training.privacy import DpSgd, PrivacyBudget, PrivateGradients
from training.strategies import FederatedAveraging
from training.strategies.simulate import Average, Simulation, Traffic, weighted_mean
from training.strategies.strategy import Vector
from training.strategies.tasks import ClassifierTask

CENTRAL, LARGE_BATCH = "central", "large batch"
FEDAVG, UNEQUAL = "FedAvg", "FedAvg, unequal data"
MASKED, ENCRYPTED = "FedAvg, secure aggregation", "FedAvg, homomorphic sums"
CONCENTRATION = 0.1
"""Of the Dirichlet distribution: most clients have three or four of the ten digits."""
NOISY_RATE = 0.5
TOLERATED_DROPS = 1


def central(frame: Frame) -> tuple[Row, nn.Sequential]:
    """All data in one place; the trained model is returned, too."""
    data, model = frame.data, frame.model()
    begun_s = time.perf_counter()
    optimizer = sgd(model.parameters())
    for batches in frame.batches(torch.arange(len(data.train_labels))):
        for batch in batches:
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model, frame.examples(batch)))
            optimizer.step()
    seconds = time.perf_counter() - begun_s
    row = row_of(
        CENTRAL,
        accuracy=frame.accuracy(model),
        client_flops=0,
        client_kb=(data.train_inputs.nbytes + data.train_labels.nbytes) / CLIENTS / 1e3,
        seconds=seconds,
        seen="the pictures themselves",
        **frame.ask_activations(nn.Flatten(), RIDGE),
    )
    return row, model


def large_batch(frame: Frame) -> Row:
    """Gradients of all clients' batches are averaged at each step."""
    model = frame.model()
    begun_s = time.perf_counter()
    optimizer, traffic = sgd(model.parameters()), Traffic()
    size_bytes = sum(one.nbytes for one in model.parameters())
    streams = [frame.batches(shard) for shard in frame.shards]
    for at_once in zip(*streams, strict=True):
        for batches in zip(*at_once, strict=True):
            optimizer.zero_grad()
            for batch in batches:
                share = len(batch) / sum(len(one) for one in batches)
                loss = cross_entropy(model, frame.examples(batch))
                torch.autograd.backward(loss * share)
            optimizer.step()
            traffic.on_mean(size_bytes, CLIENTS, CLIENTS)
    return row_of(
        LARGE_BATCH,
        accuracy=frame.accuracy(model),
        client_flops=_flops(frame),
        client_kb=_both_ways(traffic),
        seconds=time.perf_counter() - begun_s,
        seen=f"gradients of {BATCH} pictures",
        **frame.ask_gradients(gradient_shower(frame.model()), together=BATCH),
    )


def federated(frame: Frame, mode: str) -> Row:
    """Averages after each pass over the own data: plain, with unequal data, masked, encrypted.

    Raises:
        ExtraMissing: encrypted ones need an extra.
    """
    if mode == MASKED:
        with MaskedMeans(CLIENTS) as means:
            return _hidden(frame, mode, means, "only sums: each client's vector is masked")
    if mode == ENCRYPTED:
        return _hidden(frame, mode, EncryptedMeans(), "nothing: ciphertexts without the key")
    found = frame.ask_gradients(change_shower(frame), together=len(frame.data.test_labels))
    swarm, row = _federated(frame, mode, weighted_mean)
    moved = {"client_kb": _both_ways(swarm.traffic)}
    return row_of(mode, **row, **moved, seen="a client's change of parameters", **found)


def _hidden(frame: Frame, mode: str, means: MaskedMeans | EncryptedMeans, seen: str) -> Row:
    """FedAvg with sums of which nobody sees a term."""
    _, row = _federated(frame, mode, means)
    moved = {"client_kb": means.client_kb, "error_per_tolerance": means.worst}
    return row_of(mode, **row, **moved, seen=seen)


def _federated(frame: Frame, mode: str, average: Average) -> tuple[Simulation, dict[str, float]]:
    """A swarm that has learnt, and what does not depend on who sees what."""
    shards = None
    if mode == UNEQUAL:
        labels = frame.data.train_labels.numpy()
        shards = dirichlet_shards(
            labels,
            workers=CLIENTS,
            concentration=CONCENTRATION,
            seed=frame.seed,
            smallest=BATCH,
        )
    task = ClassifierTask(
        frame.data, frame.model, workers=CLIENTS, batch=BATCH, seed=frame.seed, shards=shards
    )
    strategy = FederatedAveraging(every=frame.steps // frame.passes, fraction=1.0)
    starts = [task.start(frame.seed)] * CLIENTS
    begun_s = time.perf_counter()
    swarm = Simulation(strategy, task, starts, RATE, average=average)
    swarm.run(frame.steps)
    return swarm, {
        "seconds": time.perf_counter() - begun_s,
        "accuracy": task.accuracy(swarm.mean()),
        "client_flops": _flops(frame),
    }


def noisy(frame: Frame, epsilon: float) -> Row:
    """DP-SGD: clipped gradients with noise, of lots that are drawn by chance."""
    model = frame.model()
    data = frame.data
    begun_s = time.perf_counter()
    done = train_privately(
        model,
        (data.train_inputs, data.train_labels),
        frame.shards,
        epsilon=epsilon,
        tolerated_drops=TOLERATED_DROPS,
        lots=frame.steps,
        rate=NOISY_RATE,
        seed=frame.seed,
    )
    seconds = time.perf_counter() - begun_s
    batch = frame.examples(torch.arange(BATCH))
    shown = _noisy_shower(frame, done.settings)
    each = counted_flops(lambda: shown(*batch)) / BATCH
    return row_of(
        private_name(epsilon),
        accuracy=frame.accuracy(model),
        client_flops=each * done.samples / CLIENTS,
        client_kb=_both_ways(done.traffic),
        seconds=seconds,
        seen=f"noisy gradients of about {BATCH} pictures",
        epsilon=done.epsilon,
        noise_multiplier=done.settings.noise_multiplier,
        **frame.ask_gradients(shown, together=BATCH),
    )


@dataclass
class EncryptedMeans:
    """Means of vectors that are added as CKKS ciphertexts, by who has no key."""

    client_kb: float = 0.0
    """That one client sent and received so far."""
    worst: float = 0.0
    """The largest error of a sum so far, in times of what the scheme may be off."""
    _elements: int = field(default=0, repr=False)

    def __call__(self, vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
        """The mean by weights; raises ExtraMissing."""
        parts = [
            vector.astype(np.float64) * weight / sum(weights)
            for vector, weight in zip(vectors, weights, strict=True)
        ]
        if self._elements != len(parts[0]):
            self._elements = len(parts[0])
            self._spec = HomomorphicSpec(elements=self._elements)
            self._key = draw_key(self._spec)
        adder = adder_untrusted(self._spec, self._key.modulus)
        # The first number of each vector is a one, and counts the members.
        sent = [self._key.encrypt(np.concatenate([[1.0], part])) for part in parts]
        total = adder.load_untrusted(sent[0])
        for data in sent[1:]:
            total = adder.add(total, adder.load_untrusted(data))
        summed = adder.dump(total)
        got = self._key.decrypt_untrusted(summed, len(parts))[1:]
        off = np.abs(got - np.sum(parts, axis=0)).max() / self._spec.tolerance(len(parts))
        self.worst = max(self.worst, float(off))
        self.client_kb += (len(sent[0]) + len(summed)) / 1e3
        return np.asarray(got, vectors[0].dtype)


def _flops(frame: Frame) -> float:
    """Of one client that computes the whole model for all its samples."""
    model, batch = frame.model(), frame.examples(torch.arange(BATCH))
    step = counted_flops(lambda: torch.autograd.backward(cross_entropy(model, batch)))
    return step / BATCH * frame.samples


def _both_ways(traffic: Traffic) -> float:
    """Kilobytes that one client sends and receives; all receive what all send."""
    return 2 * traffic.sent_bytes / CLIENTS / 1e3


def _first(model: nn.Sequential) -> nn.Linear:
    """The layer that sees the pictures."""
    first = model[1]
    assert isinstance(first, nn.Linear)
    return first


def gradient_shower(
    model: nn.Sequential,
) -> Shown:
    """What a client of a large batch shows."""
    first = _first(model)

    def shown(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = cross_entropy(model, (inputs, labels))
        weight, bias = torch.autograd.grad(loss, [first.weight, first.bias])
        return weight, bias

    return shown


def change_shower(
    frame: Frame,
) -> Shown:
    """What a client of FedAvg shows after a pass over its data."""
    start = frame.model()

    def shown(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = copy.deepcopy(start)
        optimizer = sgd(model.parameters())
        for batch in zip(torch.split(inputs, BATCH), torch.split(labels, BATCH), strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model, batch))
            optimizer.step()
        before, after = _first(start), _first(model)
        return (before.weight - after.weight).detach(), (before.bias - after.bias).detach()

    return shown


def _noisy_shower(frame: Frame, settings: DpSgd) -> Shown:
    """What one client of DP-SGD shows of a lot: its gradient with its share of the noise."""
    model = frame.model()
    computed = PrivateGradients(
        model,
        cross_entropy,
        settings,
        examples=len(frame.data.train_labels),
        budget=PrivacyBudget(epsilon=float("inf"), delta=1e-4),
        entropy=random.Random(frame.seed).randbytes,
    )

    def shown(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        computed.compute((inputs, labels))
        first = _first(model)
        assert first.weight.grad is not None
        assert first.bias.grad is not None
        return first.weight.grad.clone(), first.bias.grad.clone()

    return shown
