"""A trainer without PyTorch, for simulations: the calls of SwarmOptimizer, on a small vector."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trio

from averaging import Manifest, RoundFailed, RoundId, Snapshot, StateTable, TensorSpec
from p2p import Node, open_dht
from p2p.testing import SimNetwork
from training.advice import Advice
from training.config import SwarmConfig
from training.follow import catch_up
from training.progress import BatchSchedule, FixedBatch, Position
from training.session import Session, open_session
from training.session_plan import SessionPlan
from training.state_metadata import encode_metadata

Vector = np.ndarray[Any, np.dtype[np.float64]]
RATE, MOMENTUM = 0.1, 0.9


@dataclass
class StepLog:
    """One global step as its peer saw it."""

    step: int
    batches: list[tuple[str, int]]
    members: dict[str, float]
    at_s: float


@dataclass
class SimTrainer:
    """Trains theta by momentum; its micro-batches are known by name and number."""

    name: str
    node: Node
    session: Session
    theta: Vector
    compute_s: float
    position: Position
    batch_size: int = 8
    velocity: Vector = field(init=False)
    sums: Vector = field(init=False)
    took_s: float = field(init=False)
    """How long the last micro-batch took; who dawdles does not know it beforehand."""
    samples: int = 0
    number: int = 0
    batches: list[tuple[str, int]] = field(default_factory=list)
    steps: list[StepLog] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    caught_up: list[int] = field(default_factory=list)
    replayed: int = 0
    held: dict[RoundId, bytes] = field(default_factory=dict)
    """Theta's bytes at each position that was reached."""
    positions: dict[RoundId, Position] = field(default_factory=dict)
    """The same positions as a whole."""
    snapshots: int = 0
    equalized: bool = False
    stop: bool = False

    def __post_init__(self) -> None:
        self.velocity = np.zeros_like(self.theta)
        self.sums = np.zeros_like(self.theta)
        self.took_s = self.compute_s

    async def train(self, steps: int) -> None:
        """Compute and step until this global step, or told to stop."""
        while self.position.step < steps and not self.stop:
            seconds = self.compute_s
            await trio.sleep(seconds)
            self.took_s = seconds
            self.compute()
            await self.step()

    def compute(self) -> None:
        """One micro-batch."""
        self.sums += self.batch_size * gradient(self.theta, (self.name, self.number))
        self.batches.append((self.name, self.number))
        self.samples += self.batch_size
        self.number += 1

    async def step(self) -> None:
        """What SwarmOptimizer.step() does after accumulating."""
        advice = await self.session.advance(
            self.samples, self.batch_size / self.took_s, self.took_s
        )
        if advice is Advice.CATCH_UP:
            await self.catch_up()
        elif advice is Advice.ROUND:
            await self.hold_round()

    async def hold_round(self) -> None:
        means = {"theta": self.sums / self.samples if self.samples else np.zeros_like(self.theta)}
        try:
            result = await self.session.hold_round(means, self.samples)
        except RoundFailed as failure:
            self.failures.append(str(failure))
            if failure.report.behind is not None:
                await self.catch_up(failure.report.behind)
            return
        if result.accepted:
            self.apply(means["theta"])
            members = {p: m.fraction for p, m in sorted(result.report.members.items())}
            self.steps.append(
                StepLog(result.position.step, self.batches, members, trio.current_time())
            )
            self.forget()
        else:
            self.failures.append("discarded")
        self.position, self.equalized = result.position, False
        self.keep()
        await self.session.commit(result, self.samples)

    async def catch_up(self, hint: RoundId | None = None) -> None:
        caught = await catch_up(self.session, hint)
        if caught is None:
            return
        self.theta = caught.snapshot.arrays["theta"].copy()
        self.velocity = caught.snapshot.arrays["velocity"].copy()
        for kept in caught.rounds:
            if kept.gradients is not None:
                self.apply(kept.gradients["theta"])
                self.replayed += 1
        self.forget()
        self.position = caught.position
        self.equalized = caught.metadata.equalized and not caught.rounds
        self.caught_up.append(self.position.step)
        self.keep()
        await self.session.settle(self.position, caught.past)

    async def equalize(self) -> None:
        state = {"theta": self.theta.copy(), "velocity": self.velocity.copy()}
        result = await self.session.equalize(state)
        self.theta, self.velocity = state["theta"], state["velocity"]
        self.position, self.equalized = result.position, True
        await self.session.commit(result, self.samples)

    def apply(self, mean: Vector) -> None:
        self.velocity = MOMENTUM * self.velocity + mean
        self.theta = self.theta - RATE * self.velocity

    def forget(self) -> None:
        self.sums = np.zeros_like(self.theta)
        self.samples, self.batches = 0, []

    def keep(self) -> None:
        self.held[self.position.round] = self.theta.tobytes()
        self.positions[self.position.round] = self.position

    def take_snapshot(self) -> Snapshot:
        self.snapshots += 1
        metadata = encode_metadata(self.position, equalized=self.equalized, scalars=())
        arrays = {"theta": self.theta.copy(), "velocity": self.velocity.copy()}
        return Snapshot(self.position.round.number, metadata, arrays)

    def peers(self) -> int:
        """How many are known, itself included."""
        return len(self.session.tracker.view().peers)


def gradient(theta: Vector, batch: tuple[str, int]) -> Vector:
    """The mean gradient of a micro-batch: pulls theta to a point that depends on the batch."""
    seed = int.from_bytes(hashlib.sha256(repr(batch).encode()).digest()[:8])
    aim = np.random.default_rng(seed).standard_normal(theta.shape)
    return 0.5 * (theta - aim)


def replay(theta: Vector, logs: dict[int, list[list[tuple[str, int]]]], steps: int) -> Vector:
    """What one process computes from the same micro-batches, all of one size."""
    velocity = np.zeros_like(theta)
    for step in range(1, steps + 1):
        batches = [batch for member in logs[step] for batch in member]
        mean = sum((gradient(theta, batch) for batch in batches), np.zeros_like(theta))
        velocity = MOMENTUM * velocity + mean / len(batches)
        theta = theta - RATE * velocity
    return theta


@asynccontextmanager
async def open_trainer(
    network: SimNetwork,
    name: str,
    *,
    initial_peers: tuple[str, ...] = (),
    compute_s: float = 0.05,
    global_batch: int | BatchSchedule = 64,
    elements: int = 10,
    initial: float = 0.0,
    spec_name: str = "theta",
    start: Position | None = None,
    client_mode: bool = False,
    stuck: bool = False,
    snapshot_s: float = 0.0,
    config: SwarmConfig | None = None,
) -> AsyncIterator[SimTrainer]:
    """A trainer in the run, introduced to those who are there.

    Args:
        stuck: its thread never comes back to copy a snapshot.
        snapshot_s: how long it takes to copy one.
    """
    theta = np.full(elements, initial)
    spec = TensorSpec.of({spec_name: theta})
    digest = hashlib.sha256(theta.tobytes()).digest()
    position = start or Position(RoundId(0, digest))
    trainers: list[SimTrainer] = []

    def check(manifest: Manifest) -> str | None:
        table = StateTable.of({"theta": theta, "velocity": theta})
        return None if manifest.table == table else "has other tensors"

    plan = SessionPlan(
        run="run",
        spec=spec,
        spec_hash=spec.hash,
        schedule=FixedBatch(global_batch) if isinstance(global_batch, int) else global_batch,
        position=position,
        check_state=check,
        take_snapshot=lambda: trainers[0].take_snapshot(),
    )

    async def on_caller(function: Callable[[], Snapshot]) -> Snapshot:
        if stuck:
            await trio.sleep_forever()
        # The thread that trains gets to it within a micro-batch.
        await trio.sleep(compute_s / 2)
        snapshot = function()
        await trio.sleep(snapshot_s)
        return snapshot

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(network.open_node(name, client_mode=client_mode))
        dht = await stack.enter_async_context(open_dht(node, initial_peers=initial_peers))
        session = await stack.enter_async_context(
            open_session(node, dht, plan, config or SwarmConfig(), on_caller)
        )
        trainers.append(SimTrainer(name, node, session, theta, compute_s, position))
        await session.introduce()
        yield trainers[0]
