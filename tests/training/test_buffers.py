"""Buffers such as the running means of a batch norm: averaged with the state, and no part of the
hash by which peers compare their parameters.
"""

from __future__ import annotations

import threading
import time

import torch
from torch import nn

from tests.training.test_optimizer import backward, momentum
from training import Swarm, SwarmOptimizer, join


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def step_together(optimizer: SwarmOptimizer, model: nn.Module, *, first_seed: int) -> None:
    """Two global steps on samples of one's own."""
    seed = first_seed
    while optimizer.global_step < 2:
        backward(model, seed)
        optimizer.step(samples=8)
        seed += 1


def test_running_means_are_averaged_and_outside_the_hash() -> None:
    before: list[dict[str, torch.Tensor]] = [{}, {}]
    hashes = ["", ""]
    models = [make_model(), make_model()]

    def train(swarm: Swarm, peer: int) -> None:
        model = models[peer]
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=16)
        while len(swarm.peers) < 2:
            time.sleep(0.01)
        step_together(optimizer, model, first_seed=100 * peer)
        before[peer], hashes[peer] = buffers(model), optimizer.state_hash()
        optimizer.reaverage()

    def other(addresses: tuple[str, ...]) -> None:
        with join("test", initial_peers=addresses) as swarm:
            train(swarm, 1)

    with join("test") as swarm:
        thread = threading.Thread(target=other, args=(swarm.addresses,))
        thread.start()
        train(swarm, 0)
        thread.join()
    assert hashes[0] == hashes[1], "the same steps on one and the same machine"
    assert not torch.equal(before[0]["1.running_mean"], before[1]["1.running_mean"])
    after = [buffers(model) for model in models]
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(after[0][name], (before[0][name] + before[1][name]) / 2)
        assert torch.equal(after[0][name], after[1][name])
    assert torch.equal(after[0]["1.num_batches_tracked"], before[0]["1.num_batches_tracked"])
