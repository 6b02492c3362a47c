"""Leader SGD: every peer is pulled towards the best of its group, and more rarely of all.

    every τ local steps:    x ← x − λ  (x − best of the group)
    every τ_G of them, too: x ← x − λ_G (x − best of all)

Only the best peer's parameters travel. The best is the one with the smallest mean of its last
losses, so a peer says one number. Who lies about it is found out: before a peer follows, it
computes the loss of the leader's parameters on its own mini-batch. They are followed when that is
not much worse than was claimed, or than its own; else the next best is tried. How far a peer is
pulled at once has a bound, too.

Other than averaging, this keeps peers apart that are in different basins, and does not move the
points where the leader rests: they are stationary points of the loss itself.

Source: Y. Teng, W. Gao et al., Leader Stochastic Gradient Descent for Distributed Training of Deep
Learning Models (2019); the running mean of the losses and the order of the pulls (the group's
first) as in the authors' code, where every local step is pulled a little, too: `proximal`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.strategies.strategy import Exchange, Offer, Vector, check_interval


@dataclass(frozen=True, kw_only=True)
class LeaderSGD:
    """Follow the best, instead of the mean."""

    every: int = 8
    """Local steps between two pulls to the group's best, τ."""
    every_of_swarm: int = 16
    """Local steps between two pulls to the best of all, τ_G; a multiple of `every`."""
    groups: int = 1
    """Into how many groups the peers are split, by the order of their ids."""
    pull: float = 0.1
    """How far towards the group's best, λ."""
    pull_of_swarm: float = 0.1
    """How far towards the best of all, λ_G."""
    proximal: float = 0.0
    """How far towards the last leaders in all local steps of an interval together."""
    losses: int = 8
    """Over how many of the last losses their mean runs."""
    tolerance: float = 1.0
    """How much worse a leader's loss may be on one's own mini-batch than it claims, or than one's
    own there; as a part of that. Two mini-batches of one loss differ by as much."""
    pull_norm_max: float = 0.2
    """The longest pull, as a part of the length of the peer's own parameters."""

    def __post_init__(self) -> None:
        check_interval(self.every)
        if self.every_of_swarm < 1 or self.every_of_swarm % self.every:
            raise ValueError("every_of_swarm must be a multiple of every")
        if min(self.groups, self.losses) < 1:
            raise ValueError("groups and losses must be at least 1")
        pulls = (self.pull, self.pull_of_swarm, self.proximal)
        if not all(0 <= pull <= 1 for pull in pulls):
            raise ValueError(f"pulls must be between 0 and 1, not {pulls}")
        if self.tolerance < 0 or self.pull_norm_max <= 0:
            raise ValueError("tolerance must be at least 0, pull_norm_max above 0")

    def begin(self, parameters_E: Vector, *, me: str) -> LeaderTactic:
        """This peer's tactic."""
        return LeaderTactic(self, parameters_E.size, me)


class LeaderTactic:
    """Claims a loss, chooses whom to follow, checks that it is worth it, and is pulled."""

    def __init__(self, strategy: LeaderSGD, elements: int, me: str) -> None:
        self._strategy = strategy
        self._elements = elements
        self._me = me
        self._losses: deque[float] = deque(maxlen=strategy.losses)
        self._number = 0
        self._peers: tuple[str, ...] = (me,)
        self._leaders: dict[Exchange, Vector] = {}

    @property
    def offer_elements(self) -> int:
        """All of them, when we lead."""
        return self._elements

    @property
    def interval(self) -> int:
        """τ"""
        return self._strategy.every

    @property
    def delay(self) -> int:
        """None."""
        return 0

    @property
    def trains(self) -> bool:
        """Always."""
        return True

    @property
    def trainers(self) -> int:
        """All."""
        return max(1, len(self._peers))

    @property
    def corrects(self) -> bool:
        """Never."""
        return False

    @property
    def adjusts(self) -> bool:
        """When local steps are pulled, too."""
        return self._strategy.proximal > 0 and bool(self._leaders)

    def on_interval(self, number: int) -> None:
        """Every so many of them there is a leader of all."""
        self._number = number

    def on_peers(self, peers: Sequence[str]) -> None:
        """See who is there; groups are formed anew."""
        self._peers = tuple(sorted({*peers, self._me}))

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """As it is."""
        return gradient_E.copy()

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """The loss tells how good we are.

        Raises:
            ValueError: there is none.
        """
        if loss is None:
            raise ValueError("Leader SGD needs the loss of each local step")
        self._losses.append(loss)

    def adjust(self, parameters_E: Vector) -> Vector:
        """Pulled a little to the last leaders."""
        share = self._strategy.proximal / self._strategy.every
        adjusted_E = parameters_E.copy()
        for leader_E in self._leaders.values():
            adjusted_E += self._clipped(share * (leader_E - parameters_E), parameters_E)
        return adjusted_E

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """A leader of the group, and from time to time one of all."""
        if steps < self._strategy.every:
            return ()
        intervals = self._strategy.every_of_swarm // self._strategy.every
        if (self._number + 1) % intervals:
            return (Exchange.GROUP_LEADER,)
        return (Exchange.GROUP_LEADER, Exchange.SWARM_LEADER)

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """Our parameters, for those who follow us."""
        return Offer(parameters_E.copy(), 1.0)

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """Pulled to the leader's parameters."""
        group = exchange is Exchange.GROUP_LEADER
        rate = self._strategy.pull if group else self._strategy.pull_of_swarm
        if self._strategy.proximal:
            self._leaders[exchange] = answer_O.copy()
        pulled_E: Vector = parameters_E + self._clipped(
            rate * (answer_O - parameters_E), parameters_E
        )
        return pulled_E

    def shared(self) -> dict[str, Vector]:
        """Nothing: peers differ on purpose."""
        return {}

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Never called, as nothing is shared."""
        raise ValueError("peers of Leader SGD share no state; begin with a leader's parameters")

    # --- whom to follow ---

    @property
    def claim(self) -> float:
        """The mean of our last losses; infinite before the first."""
        return sum(self._losses) / len(self._losses) if self._losses else math.inf

    def members(self, exchange: Exchange) -> tuple[str, ...]:
        """Among whom the leader is chosen, this peer included."""
        if exchange is Exchange.SWARM_LEADER:
            return self._peers
        count, groups = len(self._peers), min(self._strategy.groups, len(self._peers))
        group = self._peers.index(self._me) * groups // count
        return tuple(p for at, p in enumerate(self._peers) if at * groups // count == group)

    def candidates(self, claims: Mapping[str, float]) -> tuple[str, ...]:
        """Those that claim to be better than we are, the best first."""
        ours = (self.claim, self._me)
        better = {
            peer: claim
            for peer, claim in claims.items()
            if peer != self._me and math.isfinite(claim) and (claim, peer) < ours
        }
        return tuple(sorted(better, key=lambda peer: (better[peer], peer)))

    def is_credible(self, claim: float, *, measured: float, own: float) -> bool:
        """Whether to follow parameters.

        Args:
            claim: the loss that their owner says they have.
            measured: the loss that they have on our mini-batch.
            own: the loss that our own have on it.
        """
        # A mini-batch may be harder than those of the claim; then our own loss says so.
        reference = max(claim, own)
        return measured <= reference + self._strategy.tolerance * abs(reference)

    def _clipped(self, pull_E: Vector, parameters_E: Vector) -> Vector:
        """The pull, shortened to its bound."""
        length = float(np.linalg.norm(pull_E))
        longest = self._strategy.pull_norm_max * float(np.linalg.norm(parameters_E))
        if length <= longest:
            return pull_E
        return np.asarray(pull_E * (longest / length), pull_E.dtype)
