"""Elastic averaging: peers keep parameters of their own, tied to a centre that follows their mean.

    x ← x − α (x − centre)        centre ← (1 − β) · centre + β · mean of all x

both from the old values. All peers hold the centre, and compute it alike from the mean of
centre − x, which is what travels.

Source: S. Zhang, A. Choromanska, Y. LeCun, Deep Learning with Elastic Averaging SGD (2015),
equations 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.strategies.outer import Anchor, OuterStep
from training.strategies.strategy import Exchange, Offer, Tactic, Vector, check_interval


@dataclass(frozen=True, kw_only=True)
class ElasticAveraging:
    """Parameters that may differ from peer to peer explore more than their mean does."""

    every: int = 8
    """Local steps between two exchanges, τ."""
    centre_rate: float = 0.43
    """How fast the centre follows the mean, β. Source: as in the code of Leader SGD's authors."""
    pull: float | None = None
    """How fast a peer follows the centre, α; None: β divided by the peers that are there."""

    def __post_init__(self) -> None:
        check_interval(self.every)
        rates = (self.centre_rate, 1.0 if self.pull is None else self.pull)
        if not all(0 < rate <= 1 for rate in rates):
            raise ValueError("centre_rate and pull must be above 0, and at most 1")

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic; the centre begins at its parameters."""
        return ElasticTactic(self, parameters_E)


class ElasticTactic:
    """Offers how far it is from the centre, and is pulled there."""

    def __init__(self, strategy: ElasticAveraging, parameters_E: Vector) -> None:
        self._strategy = strategy
        self._centre = Anchor(parameters_E, OuterStep(rate=strategy.centre_rate))
        self._samples = 0
        self._peers = 1

    @property
    def offer_elements(self) -> int:
        """All of them."""
        return self._centre.values_E.size

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
        return self._peers

    @property
    def corrects(self) -> bool:
        """Never."""
        return False

    @property
    def adjusts(self) -> bool:
        """Never."""
        return False

    def on_interval(self, number: int) -> None:
        """Samples are counted anew."""
        self._samples = 0

    def on_peers(self, peers: Sequence[str]) -> None:
        """See how many we are."""
        self._peers = max(1, len(peers))

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """As it is."""
        return gradient_E.copy()

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """They count in the mean."""
        self._samples += samples

    def adjust(self, parameters_E: Vector) -> Vector:
        """As they are."""
        return parameters_E

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """A mean after the interval."""
        return (Exchange.MEAN,) if steps >= self._strategy.every else ()

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """How far the parameters are from the centre."""
        return Offer(self._centre.change(parameters_E), float(self._samples))

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """Both move, from the old values."""
        pull = self._strategy.pull
        if pull is None:
            pull = self._strategy.centre_rate / self._peers
        pulled_E: Vector = parameters_E + pull * self._centre.change(parameters_E)
        self._centre.step(answer_O)
        return pulled_E

    def shared(self) -> dict[str, Vector]:
        """The centre."""
        return self._centre.shared()

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Begin at the centre."""
        self._centre.load(shared)
        return self._centre.values_E.copy()
