"""SCAFFOLD: clients whose data differ step in the direction of all, by control variates.

Each peer i keeps c_i, the mean gradient of its last interval, and all hold c, the mean of all c_i.
A local step is taken with g − c_i + c: what is special to the peer's own data is taken out, and
what all together want is put in. So local steps lead to the optimum of all, where those of
federated averaging come to rest between the optima of each.

    before a local step    g − c_i + c
    an exchange            c_i ← mean of g over the local steps since the last one
                           anchor ← anchor − rate · mean over those who trained of (anchor − x)
                           c ← mean over all of c_i

With plain SGD the mean of g is c_i − c + (anchor − x) / (K η), which is option II of the paper; by
gradients it needs no learning rate, and stands for any inner optimizer. The paper sends the change
of c_i, and the server adds it up. Here peers come and go, and a sum of changes would for ever hold
what those have brought who left. So all who are there send c_i as it is, also those who were not
drawn: with the same peers c is the same, and with others it is right again after one exchange.

Source: S. P. Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
(2020), algorithm 1.

Legend of shapes: E = elements of all trained parameters; an offer has O = 2 E + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.strategies.outer import Anchor, OuterStep
from training.strategies.strategy import Exchange, Offer, Tactic, Vector, check_interval
from training.strategies.turns import Lottery, Turns, check_fraction


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """Federated averaging for data that differ from peer to peer; each peer counts the same."""

    every: int = 16
    """Local steps of a drawn peer in each round, K."""
    fraction: float = 0.5
    """How many of those who are there are drawn; at least one is."""
    seed: int = 0
    """Decides who is drawn."""
    outer: OuterStep = field(default_factory=OuterStep)
    """Its rate is η_g."""

    def __post_init__(self) -> None:
        check_interval(self.every)
        check_fraction(self.fraction)

    @property
    def lottery(self) -> Lottery:
        """Draws who trains."""
        return Lottery(fraction=self.fraction, seed=self.seed)

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic; all control variates begin at 0."""
        return ScaffoldTactic(self, parameters_E, me=me)


class ScaffoldTactic:
    """Corrects gradients, and offers how far it is from the anchor and its control variate."""

    def __init__(self, strategy: Scaffold, parameters_E: Vector, *, me: str) -> None:
        self._strategy = strategy
        self._anchor = Anchor(parameters_E, strategy.outer)
        self._turns = Turns(me, strategy.lottery)
        self._common_E = np.zeros_like(parameters_E)
        """c"""
        self._own_E = np.zeros_like(parameters_E)
        """c_i"""
        self._has_own = False
        self._sum_E = np.zeros_like(parameters_E)
        self._steps = 0

    @property
    def offer_elements(self) -> int:
        """The change, the control variate, and whether we trained."""
        return 2 * self._anchor.values_E.size + 1

    @property
    def interval(self) -> int:
        """K"""
        return self._strategy.every

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
        """Always."""
        return True

    @property
    def adjusts(self) -> bool:
        """Never."""
        return False

    def on_interval(self, number: int) -> None:
        """Others may be drawn; the mean gradient begins anew."""
        self._turns.on_interval(number)
        self._sum_E[...] = 0
        self._steps = 0

    def on_peers(self, peers: Sequence[str]) -> None:
        """Where a drawn one is gone, the next is drawn."""
        self._turns.on_peers(peers)

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """g − c_i + c"""
        self._sum_E += gradient_E
        self._steps += 1
        corrected_E: Vector = gradient_E - self._own_E + self._common_E
        return corrected_E

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """Counted with its gradient."""

    def adjust(self, parameters_E: Vector) -> Vector:
        """As they are."""
        return parameters_E

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """A mean after the interval."""
        return (Exchange.MEAN,) if steps >= self._strategy.every else ()

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """Of one who did not train, only the control variate counts."""
        elements = parameters_E.size
        offer_O = np.zeros(self.offer_elements, parameters_E.dtype)
        if self._steps:
            offer_O[:elements] = self._anchor.change(parameters_E)
            offer_O[elements:-1] = self._sum_E / self._steps
            offer_O[-1] = 1
        else:
            offer_O[elements:-1] = self._own_E
        return Offer(offer_O, 1.0)

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """The anchor after the outer step; the new control variates."""
        elements, trained = parameters_E.size, answer_O[-1]
        if trained > 0:
            # The mean is over all, and the others' zeros are no changes.
            self._anchor.step(answer_O[:elements] / trained)
        self._common_E[...] = answer_O[elements:-1]
        if self._steps:
            self._own_E[...] = self._sum_E / self._steps
            self._has_own = True
        return self._anchor.values_E.copy()

    def shared(self) -> dict[str, Vector]:
        """Anchor, velocity and c."""
        return {**self._anchor.shared(), "control": self._common_E.copy()}

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Go on from the others' anchor; who has no control variate yet steps uncorrected."""
        self._anchor.load(shared)
        self._common_E[...] = shared["control"]
        # Where c is 0 the run begins, and what was before it is forgotten.
        self._has_own = self._has_own and bool(self._common_E.any())
        if not self._has_own:
            self._own_E[...] = self._common_E
        self._sum_E[...] = 0
        self._steps = 0
        return self._anchor.values_E.copy()
