"""Strategies whose peers all go on from one anchor: local SGD, DiLoCo, FedAvg and FedProx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.strategies.outer import Anchor, OuterStep
from training.strategies.strategy import Exchange, Offer, Tactic, Vector, check_interval
from training.strategies.turns import Lottery, Turns, check_fraction


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
        check_fraction(self.fraction)

    @property
    def lottery(self) -> Lottery:
        """Draws who trains."""
        return Lottery(fraction=self.fraction, seed=self.seed)

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        return AnchoredTactic(
            parameters_E, every=self.every, outer=self.outer, me=me, lottery=self.lottery
        )


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """Federated averaging whose clients are held near the anchor: g + μ (x − anchor).

    So peers with data of different kinds drift apart less in one round. That is the gradient of the
    loss with the proximal term μ/2 ‖x − anchor‖²; it does not make the optimum of all one where
    they rest, see Scaffold for that.

    Source: T. Li et al., Federated Optimization in Heterogeneous Networks (2020).
    """

    every: int = 16
    """Local steps of a drawn peer in each round."""
    fraction: float = 0.5
    """How many of those who are there are drawn; at least one is."""
    seed: int = 0
    """Decides who is drawn."""
    proximal: float = 0.1
    """μ; 0 is federated averaging."""
    outer: OuterStep = field(default_factory=OuterStep)

    def __post_init__(self) -> None:
        check_interval(self.every)
        check_fraction(self.fraction)
        if not self.proximal >= 0:
            raise ValueError(f"proximal must be at least 0, not {self.proximal}")

    @property
    def lottery(self) -> Lottery:
        """Draws who trains."""
        return Lottery(fraction=self.fraction, seed=self.seed)

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        return AnchoredTactic(
            parameters_E,
            every=self.every,
            outer=self.outer,
            me=me,
            lottery=self.lottery,
            proximal=self.proximal,
        )


class AnchoredTactic:
    """Offers how far it is from the anchor; goes on from the anchor after the outer step."""

    def __init__(
        self,
        parameters_E: Vector,
        *,
        every: int,
        outer: OuterStep,
        me: str,
        lottery: Lottery | None = None,
        proximal: float = 0.0,
    ) -> None:
        self._anchor = Anchor(parameters_E, outer)
        self._every = every
        self._turns = Turns(me, lottery)
        self._proximal = proximal
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
        return self._turns.mine

    @property
    def trainers(self) -> int:
        """Those who were drawn."""
        return self._turns.trainers

    @property
    def corrects(self) -> bool:
        """With a proximal term."""
        return self._proximal > 0

    @property
    def adjusts(self) -> bool:
        """Never."""
        return False

    def on_interval(self, number: int) -> None:
        """Others may be drawn."""
        self._turns.on_interval(number)
        self._samples = 0

    def on_peers(self, peers: Sequence[str]) -> None:
        """Where a drawn one is gone, the next is drawn."""
        self._turns.on_peers(peers)

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """Pulled to the anchor."""
        return np.asarray(
            gradient_E - self._proximal * self._anchor.change(parameters_E), gradient_E.dtype
        )

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
