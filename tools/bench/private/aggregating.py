"""The modes in which clients compute the whole model: central, large batch, federated, with noise.

All clients are computed in this process one after the other, so seconds are those of all together.
Means are made by real nodes over loopback, in the clear, behind masks or of ciphertexts, and bytes
are theirs; only what clients with noise would send is counted by the formula.
"""

from __future__ import annotations

import copy
import random
import time

import torch
from torch import nn

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
from tools.bench.private.means import ENCRYPTED as OF_CIPHERTEXTS
from tools.bench.private.means import MASKED as BEHIND_MASKS
from tools.bench.private.means import PLAIN, RealMeans
from tools.bench.report import Row
from training.data import IndexArray, dirichlet_shards
from training.privacy import DpSgd, PrivacyBudget, PrivateGradients
from training.strategies import FederatedAveraging
from training.strategies.simulate import Simulation, Traffic
from training.strategies.tasks import ClassifierTask

CENTRAL, LARGE_BATCH = "central", "large batch"
FEDAVG, UNEQUAL = "FedAvg", "FedAvg, unequal data"
MASKED, ENCRYPTED = "FedAvg, secure aggregation", "FedAvg, homomorphic sums"
CONCENTRATION = 0.1
"""Of the Dirichlet distribution: most clients have three or four of the ten digits."""
NOISY_RATE = 0.5
TOLERATED_DROPS = 1
WAYS = {
    FEDAVG: (PLAIN, "a client's change of parameters"),
    UNEQUAL: (PLAIN, "a client's change of parameters"),
    MASKED: (BEHIND_MASKS, "only sums: each client's vector is masked"),
    ENCRYPTED: (OF_CIPHERTEXTS, "nothing: ciphertexts without the key"),
}
"""How means are made, and what who makes them sees."""


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
    parameters = list(model.parameters())
    optimizer = sgd(parameters)
    streams = [frame.batches(shard) for shard in frame.shards]
    begun_s = time.perf_counter()
    with RealMeans(PLAIN, CLIENTS) as means:
        for at_once in zip(*streams, strict=True):
            for batches in zip(*at_once, strict=True):
                gradients = []
                for batch in batches:
                    loss = cross_entropy(model, frame.examples(batch))
                    found = torch.autograd.grad(loss, parameters)
                    gradients.append(nn.utils.parameters_to_vector(found).numpy())
                mean = torch.from_numpy(means(gradients, [len(batch) for batch in batches]))
                pieces = torch.split(mean, [one.numel() for one in parameters])
                for parameter, piece in zip(parameters, pieces, strict=True):
                    parameter.grad = piece.view_as(parameter)
                optimizer.step()
    seconds = time.perf_counter() - begun_s
    return row_of(
        LARGE_BATCH,
        accuracy=frame.accuracy(model),
        client_flops=_flops(frame),
        seconds=seconds,
        seen=f"gradients of {BATCH} pictures",
        **_moved(frame, means, frame.steps),
        **frame.ask_gradients(gradient_shower(frame.model()), together=BATCH),
    )


def federated(frame: Frame, mode: str) -> Row:
    """Averages after each pass over the own data: plain, with unequal data, masked, encrypted.

    Raises:
        ExtraMissing: encrypted ones need an extra.
    """
    way, seen = WAYS[mode]
    task = ClassifierTask(
        frame.data,
        frame.model,
        workers=CLIENTS,
        batch=BATCH,
        seed=frame.seed,
        shards=_unequal_shards(frame) if mode == UNEQUAL else None,
    )
    strategy = FederatedAveraging(every=frame.steps // frame.passes, fraction=1.0)
    begun_s = time.perf_counter()
    with RealMeans(way, CLIENTS) as means:
        starts = [task.start(frame.seed)] * CLIENTS
        swarm = Simulation(strategy, task, starts, RATE, average=means)
        swarm.run(frame.steps)
    seconds = time.perf_counter() - begun_s
    found = {}
    if way is PLAIN:
        found = frame.ask_gradients(change_shower(frame), together=len(frame.data.test_labels))
    return row_of(
        mode,
        accuracy=task.accuracy(swarm.mean()),
        client_flops=_flops(frame),
        seconds=seconds,
        seen=seen,
        **_moved(frame, means, frame.passes),
        **found,
    )


def _moved(frame: Frame, means: RealMeans, rounds: int) -> dict[str, float]:
    """Measured; and what it would be if each client gave a server its vector and took the mean."""
    model_bytes = sum(one.nbytes for one in frame.model().parameters())
    return {
        "client_kb": means.client_kb,
        "formula_kb": 2 * rounds * model_bytes / 1e3,
        "error_per_tolerance": means.worst,
    }


def _unequal_shards(frame: Frame) -> tuple[IndexArray, ...]:
    return dirichlet_shards(
        frame.data.train_labels.numpy(),
        workers=CLIENTS,
        concentration=CONCENTRATION,
        seed=frame.seed,
        smallest=BATCH,
    )


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
