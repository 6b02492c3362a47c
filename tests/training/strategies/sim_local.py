"""A trainer with a local strategy for simulations: what MeanExchanger does, awaited."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import torch
import trio
from torch import nn

from averaging import RoundFailed, RoundId, Snapshot
from p2p import Node, open_dht
from p2p.testing import SimNetwork
from training.advice import Advice
from training.config import SwarmConfig
from training.follow import catch_up
from training.model_state import ModelState
from training.privacy import PrivateClients
from training.session import Session, open_session
from training.strategies import Strategy
from training.strategies.means import session_config
from training.strategies.replica import Replica
from training.strategies.secure import SecureExchange
from training.strategies.secure_offers import SecureOffers

SAMPLES = 8


def make_model(seed: int, *, buffers: bool = True) -> nn.Module:
    """With a buffer that differs from peer to peer, and a parameter that nobody trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(3, track_running_stats=buffers)
        model = nn.Sequential(norm, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[1].bias.requires_grad_(False)
    return model


@dataclass
class SimLocal:
    """Trains a small model on batches known by its name and their number."""

    name: str
    node: Node
    session: Session
    model: nn.Module
    optimizer: torch.optim.Optimizer
    replica: Replica
    compute_s: float
    number: int = 0
    local_steps: int = 0
    held: dict[RoundId, str] = field(default_factory=dict)
    """The hash of what all hold alike at each position that was reached."""
    parameters: dict[int, bytes] = field(default_factory=dict)
    """The parameters' bytes after each exchange."""
    members: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    caught_up: list[int] = field(default_factory=list)
    dropped: int = 0
    """Offers that were spent in vain."""

    async def train(self, exchanges: int) -> None:
        """Compute and step until so many exchanges were made by the swarm."""
        while self.replica.position.step < exchanges:
            await trio.sleep(self.compute_s)
            if self.replica.tactic.trains:
                self.local_step()
            await self.step()

    def local_step(self) -> None:
        seed = hashlib.sha256(f"{self.name}{self.number}".encode()).digest()
        self.number += 1
        rng = torch.Generator().manual_seed(int.from_bytes(seed[:6]))
        inputs = torch.randn(SAMPLES, 3, generator=rng)
        self.optimizer.zero_grad()
        loss = self.model(inputs).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.replica.on_gradient()
        self.optimizer.step()
        self.local_steps += 1
        self.replica.on_local_step(samples=SAMPLES, loss=loss.item())

    async def step(self) -> None:
        advice = await self.session.advance(
            self.replica.steps, SAMPLES / self.compute_s, self.compute_s
        )
        if advice is Advice.CATCH_UP:
            await self.catch_up()
        elif advice is Advice.ROUND:
            await self.exchange()

    async def exchange(self) -> None:
        tensors, weight = self.replica.offer()
        try:
            result = await self.session.hold_round(tensors, weight)
        except RoundFailed as failed:
            self.failures.append(str(failed))
            self.dropped += self.replica.on_failure(failed.report)
            if failed.report.behind is not None:
                await self.catch_up(failed.report.behind)
            return
        self.replica.apply(result, tensors)
        await self.session.commit(result, 0)
        self.members.append(len(result.report.members))
        self.note()

    async def catch_up(self, hint: RoundId | None = None) -> bool:
        caught = await catch_up(self.session, hint)
        if caught is None:
            return False
        self.replica.take_over(caught)
        await self.session.settle(caught.position, caught.past)
        self.caught_up.append(self.replica.position.step)
        self.note()
        return True

    def note(self) -> None:
        position = self.replica.position
        self.held[position.round] = self.replica.state_hash()
        parameters = [p.detach().numpy().tobytes() for p in self.model.parameters()]
        self.parameters[position.step] = b"".join(parameters)

    def peers(self) -> int:
        """How many are known, itself included."""
        return len(self.session.tracker.view().peers)


@asynccontextmanager
async def open_local(
    network: SimNetwork,
    name: str,
    strategy: Strategy,
    *,
    initial_peers: tuple[str, ...] = (),
    compute_s: float = 0.05,
    seed: int = 0,
    rate: float = 0.1,
    config: SwarmConfig | None = None,
    secure: SecureExchange | None = None,
) -> AsyncIterator[SimLocal]:
    """A trainer in the run, introduced to those who are there."""

    async def on_caller(function: Callable[[], Snapshot]) -> Snapshot:
        await trio.sleep(compute_s / 2)
        return function()

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(network.open_node(name))
        dht = await stack.enter_async_context(open_dht(node, initial_peers=initial_peers))
        model = make_model(seed, buffers=not isinstance(strategy, PrivateClients))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=rate, momentum=0.9)
        config = config or SwarmConfig()
        offers = SecureOffers(secure, strategy, config.averager) if secure is not None else None
        state = ModelState(model, optimizer)
        replica = Replica(strategy, model, state, me=node.peer_id, secure=offers)
        session = await stack.enter_async_context(
            open_session(
                node,
                dht,
                replica.plan("run", "SGD"),
                session_config(config),
                on_caller,
            )
        )
        replica.schedule.watch(session.tracker.view)
        await session.introduce()
        yield SimLocal(name, node, session, model, optimizer, replica, compute_s)


@asynccontextmanager
async def local_swarm(
    network: SimNetwork,
    strategy: Strategy,
    compute_s: tuple[float, ...],
    *,
    config: SwarmConfig | None = None,
    secure: SecureExchange | None = None,
) -> AsyncIterator[list[SimLocal]]:
    """Trainers that know each other, one for each time to compute."""
    async with AsyncExitStack() as stack:
        trainers: list[SimLocal] = []
        for index, seconds in enumerate(compute_s):
            initial = trainers[0].node.addresses if trainers else ()
            trainer = open_local(
                network,
                f"peer{index}",
                strategy,
                initial_peers=initial,
                compute_s=seconds,
                config=config,
                secure=secure,
            )
            trainers.append(await stack.enter_async_context(trainer))
        with trio.fail_after(30):
            while any(trainer.peers() < len(compute_s) for trainer in trainers):  # noqa: ASYNC110
                await trio.sleep(0.01)
        yield trainers
    assert network.handler_errors == []


async def train(trainers: list[SimLocal], exchanges: int) -> None:
    """All train until so many exchanges."""
    async with trio.open_nursery() as nursery:
        for trainer in trainers:
            nursery.start_soon(trainer.train, exchanges)
