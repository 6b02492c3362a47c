"""A swarm in one process: workers in step with one another, and what they would have sent.

The same tactics run here as over the network; only the bytes are counted instead of moved. All
take a local step, then whatever is due is exchanged by all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from training.privacy.clients import PrivateTactic
from training.strategies.leader import LeaderTactic
from training.strategies.strategy import Exchange, Strategy, Vector


class Task(Protocol):
    """What the workers minimise; each has mini-batches of its own."""

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """The loss of a worker's mini-batch at a step, and its gradient."""

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """The loss of the same mini-batch at any parameters."""

    def samples(self, worker: int, step: int) -> int:
        """How many samples the mini-batch has."""


@dataclass
class Traffic:
    """What a real exchange would have sent, in parameters of the model's own dtype.

    A mean is a butterfly all-reduce of n members, c of whom contribute: each contributor sends all
    but its own span, each member sends its span of the result to the others, so (c + n)(n − 1)/n
    vectors travel. A leader sends its parameters to each follower by itself. Claims of losses are
    some bytes, and not counted.
    """

    exchanges: int = 0
    published: int = 0
    """Vectors as papers count them: to a mean one from each contributor and one to each member, as
    with a server; of a leader one, however many take it."""
    sent_bytes: float = 0.0
    """By all peers together; a vector that goes to three peers counts thrice."""
    busiest_bytes: float = 0.0
    """Through the link of the busiest peer, all exchanges together: what they take to travel."""
    peak_bytes: float = 0.0
    """The most that one exchange brings through the busiest link."""

    def on_mean(self, size_bytes: int, members: int, contributors: int) -> None:
        """Members averaged vectors of this size."""
        self.published += contributors + members
        self.sent_bytes += size_bytes * (contributors + members) * (members - 1) / members
        # A contributor's span goes out in pieces, and so does its share of the result.
        self._on_busiest(2 * size_bytes * (members - 1) / members)

    def on_leader(self, size_bytes: int, followers: int) -> None:
        """A leader's vector was taken by so many."""
        self.published += 1
        self.sent_bytes += size_bytes * followers

    def on_leaders(self, size_bytes: int, followers: Sequence[int]) -> None:
        """Leaders' vectors were taken at once, each by so many."""
        for count in followers:
            self.on_leader(size_bytes, count)
        self._on_busiest(float(size_bytes * max(followers, default=0)))

    def seconds(self, bits_per_s: float) -> float:
        """How long all exchanges take where each peer's link has this rate each way."""
        return 8 * self.busiest_bytes / bits_per_s

    def _on_busiest(self, size_bytes: float) -> None:
        self.exchanges += 1
        self.busiest_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, size_bytes)


Average = Callable[[Sequence[Vector], Sequence[float]], Vector]
"""Offers of P peers and their weights in, their mean out."""


def weighted_mean(vectors_PO: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """An Average that is computed in the clear."""
    stacked_PO, weights_P = np.stack(vectors_PO), np.array(weights)
    return np.asarray(weights_P @ stacked_PO / weights_P.sum(), stacked_PO.dtype)


@dataclass
class Simulation:
    """Workers that train together.

    Args:
        starts: each worker's first parameters; one for each.
        rate: of the workers' plain SGD.
        claims: what workers say of their loss instead of what it is, for tests with liars.
        average: averages offers by their weights; perhaps so that nobody sees a single one.
    """

    strategy: Strategy
    task: Task
    starts: Sequence[Vector]
    rate: float
    claims: dict[int, float] = field(default_factory=dict)
    average: Average = weighted_mean

    def __post_init__(self) -> None:
        self.names = [f"{worker:03d}" for worker in range(len(self.starts))]
        self.parameters = [start.copy() for start in self.starts]
        # What is shared begins at the first worker's parameters, as it would at a run's first peer.
        self.tactics = [self.strategy.begin(self.starts[0], me=name) for name in self.names]
        self.traffic = Traffic()
        self.leaders: Counter[int] = Counter()
        """How often each worker led others."""
        self.refusals = 0
        """How often a leader was not followed."""
        self.steps_done = 0
        self._number = 0
        for tactic in self.tactics:
            tactic.on_peers(self.names)
        self._on_interval()

    def run(self, steps: int) -> None:
        """So many local steps of every worker, with all exchanges that fall due."""
        for _ in range(steps):
            self._local_steps()
            due = self.tactics[0].due(self._steps_since)
            for exchange in due:
                if exchange is Exchange.MEAN:
                    self._exchange_mean()
                else:
                    self._exchange_leaders(exchange)
            if due:
                self._number += 1
                self._on_interval()

    def mean(self) -> Vector:
        """The mean of all workers' parameters."""
        return np.asarray(np.mean(self.parameters, axis=0), self.parameters[0].dtype)

    def _on_interval(self) -> None:
        self._steps_since = 0
        for tactic in self.tactics:
            tactic.on_interval(self._number)

    def _local_steps(self) -> None:
        for worker, tactic in enumerate(self.tactics):
            if not tactic.trains:
                continue
            loss, gradient_E = self.task.gradient(self.parameters[worker], worker, self.steps_done)
            if tactic.corrects:
                gradient_E = tactic.on_gradient(gradient_E, self.parameters[worker])
            self.parameters[worker] = self.parameters[worker] - self.rate * gradient_E
            tactic.on_local_step(samples=self.task.samples(worker, self.steps_done), loss=loss)
            if tactic.adjusts:
                self.parameters[worker] = tactic.adjust(self.parameters[worker])
        self.steps_done += 1
        self._steps_since += 1

    def _exchange_mean(self) -> None:
        offers = [
            tactic.offer(Exchange.MEAN, parameters_E)
            for tactic, parameters_E in zip(self.tactics, self.parameters, strict=True)
        ]
        weights = [offer.weight for offer in offers]
        mean_O = self.average([offer.vector_O for offer in offers], weights)
        contributors = int(np.count_nonzero(weights))
        for worker, tactic in enumerate(self.tactics):
            if isinstance(tactic, PrivateTactic):
                tactic.on_contributors(contributors)
            self.parameters[worker] = tactic.apply(Exchange.MEAN, mean_O, self.parameters[worker])
        self.traffic.on_mean(mean_O.nbytes, len(offers), contributors)

    def _exchange_leaders(self, exchange: Exchange) -> None:
        """All follow at once: a leader's parameters are those of before the exchange."""
        before = list(self.parameters)
        claims = {
            name: self.claims.get(worker, self._tactic(worker).claim)
            for worker, name in enumerate(self.names)
        }
        followers: Counter[int] = Counter()
        for worker in range(len(self.tactics)):
            leader = self._leader_of(worker, exchange, claims, before, followers)
            if leader is None:
                continue
            self.leaders[leader] += 1
            self.parameters[worker] = self._tactic(worker).apply(
                exchange, before[leader], before[worker]
            )
        self.traffic.on_leaders(before[0].nbytes, [followers[w] for w in sorted(followers)])

    def _leader_of(
        self,
        worker: int,
        exchange: Exchange,
        claims: dict[str, float],
        before: Sequence[Vector],
        fetched: Counter[int],
    ) -> int | None:
        """The first candidate that keeps what it claims; who is looked at is counted as fetched."""
        tactic = self._tactic(worker)
        members = tactic.members(exchange)
        step = self.steps_done - 1
        own = self.task.loss(before[worker], worker, step)
        for name in tactic.candidates({member: claims[member] for member in members}):
            candidate = self.names.index(name)
            fetched[candidate] += 1
            measured = self.task.loss(before[candidate], worker, step)
            if tactic.is_credible(claims[name], measured=measured, own=own):
                return candidate
            self.refusals += 1
        return None

    def _tactic(self, worker: int) -> LeaderTactic:
        tactic = self.tactics[worker]
        assert isinstance(tactic, LeaderTactic)
        return tactic
