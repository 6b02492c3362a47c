"""A server and clients of split learning in threads of this process, over real sockets."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.split import Parts, SplitServer, Traffic, connect, serve

RUN = "bench-split"
_OPENED_S_MAX = 60.0

Batch = tuple[torch.Tensor, torch.Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
cross_entropy = nn.functional.cross_entropy


@dataclass(frozen=True)
class Outcome:
    """What a training of several took."""

    seconds: float
    """Of all steps, from the moment that everybody was let in."""
    clients: tuple[Traffic, ...]
    """What each client moved."""
    server: Traffic
    """What the server moved."""


def train_split(
    parts: Parts, shares: Sequence[Sequence[Batch]], make_optimizer: MakeOptimizer
) -> Outcome:
    """Train; the parts are those that are trained, but for clients after the first.

    Args:
        shares: batches of each client. Parties take steps together, and the last of them has the
            labels; other clients each have a copy of the front and do not wait for each other.
    """
    several = parts.parties > 1
    begin = threading.Barrier(len(shares))
    opened: list[SplitServer] = []
    is_open = threading.Event()

    def run_server() -> Traffic:
        assert parts.body is not None
        loss = None if parts.is_u_shaped else cross_entropy
        optimizer = make_optimizer(parts.body.parameters())
        try:
            with serve(RUN, parts, optimizer=optimizer, loss=loss) as server:
                opened.append(server)
                is_open.set()
                server.run(clients=len(shares))
                return server.traffic
        finally:
            is_open.set()

    def run_client(index: int) -> tuple[float, Traffic]:
        labelled = not several or index == len(shares) - 1
        mine = parts if several or not index else _with_copies(parts)
        front = mine.fronts[index if several else 0]
        modules = nn.ModuleList([one for one in (front, mine.tail) if one is not None])
        try:
            with connect(
                RUN,
                mine,
                optimizer=make_optimizer(modules.parameters()),
                loss=cross_entropy if parts.is_u_shaped and labelled else None,
                party=index if several else 0,
                brings_labels=labelled,
                initial_peers=opened[0].addresses,
            ) as server:
                begin.wait()
                begun_s = time.perf_counter()
                for inputs, labels in shares[index]:
                    server.step(inputs, labels if labelled else None)
                return time.perf_counter() - begun_s, server.traffic
        except BaseException:
            begin.abort()
            raise

    with ThreadPoolExecutor(len(shares) + 1) as pool:
        serving = pool.submit(run_server)
        is_open.wait(_OPENED_S_MAX)
        if not opened:
            serving.result()
        done = [pool.submit(run_client, index) for index in range(len(shares))]
        ended = [one.result() for one in done]
        return Outcome(
            max(seconds for seconds, _ in ended),
            tuple(traffic for _, traffic in ended),
            serving.result(),
        )


def train_here(
    modules: Sequence[nn.Module], batches: Sequence[Batch], make_optimizer: MakeOptimizer
) -> float:
    """The same in one place, without a network; returns the seconds that it took."""
    model = nn.Sequential(*modules)
    optimizer = make_optimizer(model.parameters())
    begun_s = time.perf_counter()
    for inputs, labels in batches:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(inputs), labels))
        optimizer.step()
    return time.perf_counter() - begun_s


class SideBySide(nn.Module):
    """Fronts that each see a part of the last dimension, and their activations put together."""

    def __init__(self, fronts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.fronts = nn.ModuleList(fronts)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Of inputs (N, …, F) to (N, A₁ + A₂ + …, …)."""
        views = inputs.chunk(len(self.fronts), dim=-1)
        seen = [front(view) for front, view in zip(self.fronts, views, strict=True)]
        return torch.cat(seen, dim=1)


def flops(module: nn.Module, inputs: torch.Tensor) -> int:
    """Of one forward and backward pass, counted by PyTorch; matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(module(inputs).sum())
    module.zero_grad()
    return int(counter.get_total_flops())


def largest_gap(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two modules' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((mine - theirs).detach().abs().max()) for mine, theirs in pairs)


def _with_copies(parts: Parts) -> Parts:
    fronts = tuple(copy.deepcopy(front) for front in parts.fronts)
    return replace(parts, fronts=fronts, tail=copy.deepcopy(parts.tail))
