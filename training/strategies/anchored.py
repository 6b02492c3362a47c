"""Strategies whose peers all go on from one anchor: local SGD, DiLoCo and federated averaging."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from training.strategies.outer import Anchor, OuterStep
from training.strategies.strategy import Exchange, Offer, Tactic, Vector, check_interval


@dataclass(frozen=True, kw_only=True)
class LocalSGD:
    """Parameters are averaged every so many local steps: x ← mean of all x.

    Source: S. Stich, Local SGD Converges Fast and Communicates Little (2019).
    """

    every: int = 16
    """Local steps between two exchanges, H."""

    def __post_init__(self) -> None:
        check_interval(self.every)

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        return AnchoredTactic(parameters_E, every=self.every, outer=OuterStep(), me=me)


@dataclass(frozen=True, kw_only=True)
class DiLoCo:
    """Many local steps, then one outer step on the mean change, with momentum.

    Source: A. Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models
    (2023).
    """

    every: int = 50
    """Local steps between two exchanges, H."""
    outer: OuterStep = field(default_factory=lambda: OuterStep(rate=0.7, momentum=0.9))

    def __post_init__(self) -> None:
        check_interval(self.every)

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        return AnchoredTactic(parameters_E, every=self.every, outer=self.outer, me=me)


@dataclass(frozen=True, kw_only=True)
class FederatedAveraging:
    """In each round some peers are drawn; they train, and all take their mean, by samples.

    Source: B. McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data (2017). With another outer step it is the FedAvgM of H. Hsu et al. (2019).
    """

    every: int = 16
    """Local steps of a drawn peer in each round."""
    fraction: float = 0.5
    """How many of those who are there are drawn; at least one is."""
    seed: int = 0
    """Decides who is drawn."""
    outer: OuterStep = field(default_factory=OuterStep)

    def __post_init__(self) -> None:
        check_interval(self.every)
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, not {self.fraction}")

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        return AnchoredTactic(
            parameters_E, every=self.every, outer=self.outer, me=me, drawn_by=self
        )

    def drawn(self, number: int, peers: Sequence[str]) -> tuple[str, ...]:
        """Who trains in this round: those whose hash with seed and round is smallest.

        Nobody decides it, and everybody can check it. Peers that know of different others may
        draw a few different ones; then some more or fewer train.
        """
        ranked = sorted(
            peers,
            key=lambda peer: hashlib.sha256(f"{self.seed}\0{number}\0{peer}".encode()).digest(),
        )
        return tuple(ranked[: ceil(self.fraction * len(ranked))])


class AnchoredTactic:
    """Offers how far it is from the anchor; goes on from the anchor after the outer step."""

    def __init__(
        self,
        parameters_E: Vector,
        *,
        every: int,
        outer: OuterStep,
        me: str,
        drawn_by: FederatedAveraging | None = None,
    ) -> None:
        self._anchor = Anchor(parameters_E, outer)
        self._every = every
        self._me = me
        self._drawn_by = drawn_by
        self._peers: tuple[str, ...] = (me,)
        self._drawn: tuple[str, ...] | None = None
        self._number = 0
        self._samples = 0

    @property
    def offer_elements(self) -> int:
        """All of them."""
        return self._anchor.values_E.size

    @property
    def interval(self) -> int:
        """H"""
        return self._every

    @property
    def delay(self) -> int:
        """None."""
        return 0

    @property
    def trains(self) -> bool:
        """Whether this peer was drawn."""
        return self._drawn is None or self._me in self._drawn

    @property
    def trainers(self) -> int:
        """Those who were drawn."""
        return max(1, len(self._peers if self._drawn is None else self._drawn))

    @property
    def adjusts(self) -> bool:
        """Never."""
        return False

    def on_interval(self, number: int) -> None:
        """Others may be drawn."""
        self._number = number
        self._samples = 0
        self.on_peers(self._peers)

    def on_peers(self, peers: Sequence[str]) -> None:
        """Where a drawn one is gone, the next is drawn."""
        self._peers = tuple(peers)
        if self._drawn_by is not None:
            self._drawn = self._drawn_by.drawn(self._number, self._peers)

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """They count in the mean."""
        self._samples += samples

    def adjust(self, parameters_E: Vector) -> Vector:
        """As they are."""
        return parameters_E

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """A mean after the interval."""
        return (Exchange.MEAN,) if steps >= self._every else ()

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """How far the parameters are from the anchor."""
        return Offer(self._anchor.change(parameters_E), float(self._samples))

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """The anchor after the outer step."""
        self._anchor.step(answer_O)
        return self._anchor.values_E.copy()

    def shared(self) -> dict[str, Vector]:
        """Anchor and velocity."""
        return self._anchor.shared()

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Go on from the others' anchor."""
        self._anchor.load(shared)
        return self._anchor.values_E.copy()
