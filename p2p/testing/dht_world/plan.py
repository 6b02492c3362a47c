"""SwarmPlan: how large a simulated DHT is, what its network is like, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.dht.config import DhtConfig


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A cut between two parts of the swarm, that heals."""

    at_minute: float
    """When it begins, from the begin of what is measured."""
    minutes: float
    share: float = 0.3
    """The smaller part of the nodes."""

    def __post_init__(self) -> None:
        if self.at_minute < 0 or self.minutes <= 0 or not 0 < self.share < 1:
            raise ValueError("a partition begins at minute 0 or later, lasts, and cuts off a share")


@dataclass(frozen=True, kw_only=True)
class SwarmPlan:
    """Everything but chance; chance is the seed."""

    nodes: int
    minutes: float = 30.0
    """Measured time; the time in which the swarm grows comes before it."""
    churn_per_h: float = 0.2
    """The share of all nodes that leave in an hour; as many come."""
    farewells: float = 0.5
    """The share of those who leave that say so; the others vanish."""
    loss: float = 0.05
    """The share of messages, requests as well as answers, that never arrive: harsher than lost
    packets under TCP, which only delay."""
    liars: float = 0.1
    """The share of nodes that lie."""
    partition: Partition | None = None
    seed: int = 0
    gets_per_node_h: float = 12.0
    """How often a node reads the record of another."""
    config: DhtConfig = field(default_factory=DhtConfig)
    growth_s: float = 300.0
    """All nodes join, one through another, within this time."""
    settling_s: float = 300.0
    """And have this time to settle before anything is measured."""
    record_life_s: float = 3600.0
    """Of each node's one signed record."""
    put_every_s: float = 1200.0
    """How often an owner puts its record anew."""

    def __post_init__(self) -> None:
        if self.nodes < 2 or self.minutes <= 0:
            raise ValueError("a swarm has two nodes or more, and lasts")
        if not all(0 <= share < 1 for share in (self.farewells, self.loss, self.liars)):
            raise ValueError("shares are from 0 to 1")
        if min(self.churn_per_h, self.gets_per_node_h, self.settling_s) < 0:
            raise ValueError("rates and times are not negative")
        if min(self.growth_s, self.record_life_s, self.put_every_s) <= 0:
            raise ValueError("times must be positive")

    @property
    def begins_s(self) -> float:
        """When measuring begins."""
        return self.growth_s + self.settling_s

    @property
    def ends_s(self) -> float:
        """When all ends."""
        return self.begins_s + 60 * self.minutes
