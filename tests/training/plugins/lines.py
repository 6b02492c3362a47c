"""What the tests of plug-ins train: a line through seeded points, with another peer beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from training import SwarmOptimizer, join

POINTS = 96
WIDTH = 3
SOON_S = 30.0


class Points(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Inputs and what a line makes of them, with some noise."""

    def __init__(self) -> None:
        numbers = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(POINTS, WIDTH, generator=numbers)
        noise = torch.randn(POINTS, generator=numbers)
        self.wanted = self.inputs @ torch.tensor([3.0, -2.0, 1.0]) + noise

    def __len__(self) -> int:
        return POINTS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "wanted": self.wanted[index]}


class Line(nn.Module):
    """A linear model whose forward pass gives its loss, as the models of transformers do."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(WIDTH, 1)

    def forward(self, inputs: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (self.layer(inputs).squeeze(1) - wanted).square().mean()
        return {"loss": loss}


def momentum(model: nn.Module) -> torch.optim.SGD:
    """An optimizer that remembers, so that a wrong step shows in all that follow."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)


def assert_equal_models(ours: nn.Module, theirs: nn.Module) -> None:
    """Both hold the same parameters, up to rounding."""
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@contextmanager
def training_peer(
    run: str, model: nn.Module, *, global_batch: int, steps_before: int
) -> Iterator[Sequence[str]]:
    """A peer in a thread, with a plain loop; entered when it has made some steps alone.

    Yields:
        Its addresses.
    """
    ended, ready = threading.Event(), threading.Event()
    addresses: list[str] = []
    failures: list[BaseException] = []

    def go(optimizer: SwarmOptimizer) -> None:
        points, number = Points(), 0
        while not ended.is_set():
            chosen = torch.arange(number, number + 8) % POINTS
            model(points.inputs[chosen], points.wanted[chosen])["loss"].backward()
            optimizer.step(samples=8)
            number += 8
            if optimizer.global_step >= steps_before:
                ready.set()

    def run_loop() -> None:
        try:
            with join(run) as swarm:
                addresses.extend(swarm.addresses)
                go(swarm.optimizer(momentum(model), model=model, global_batch=global_batch))
        except BaseException as exc:
            failures.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run_loop)
    thread.start()
    try:
        assert ready.wait(SOON_S)
        yield addresses
    finally:
        ended.set()
        thread.join(SOON_S)
    assert not thread.is_alive()
    assert failures == []
