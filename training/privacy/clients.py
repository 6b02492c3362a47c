"""Clients whose whole data are hidden: updates cut to a length, with noise on their mean.

Where DP-SGD hides one example, this hides everything that one client brought to an exchange. Its
update, anchor − x, is cut to length C, gets a share of noise, and counts as every other does: by
samples the mean would tell who has how many. Then the mean over m clients has noise of at least
σ C / m.

What is paid: a Gaussian mechanism of multiplier σ for each offer of this client. Who is drawn
follows from a public hash, so that to be drawn seldom saves offers, but hides nothing by itself.
An exchange that failed was perhaps seen by some, so the next offer is paid for by itself, and this
one with the noise that it had.

What is promised, to whom, and what aggregators see: see NoiseShares.

Source: H. B. McMahan et al., Learning Differentially Private Recurrent Language Models (2018),
DP-FedAvg; there a server adds the noise and draws the clients in secret.

Legend of shapes: E = elements of all trained parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.privacy.budget import PrivacyBudget
from training.privacy.noise import SYSTEM, Entropy, NoiseShares, secret_normals
from training.strategies.anchored import DiLoCo, FederatedAveraging, FedProx, LocalSGD
from training.strategies.strategy import Exchange, Offer, Tactic, Vector


@dataclass(frozen=True, kw_only=True)
class PrivateClients:
    """A strategy that averages updates, with client-level differential privacy."""

    strategy: LocalSGD | DiLoCo | FederatedAveraging | FedProx
    """Which steps are taken, by whom, and what the mean update moves."""
    clip: float
    """The longest that an update may be (L2), C."""
    noise_multiplier: float
    """The deviation of the whole noise in units of the clip, σ."""
    epsilon: float
    """What each client may spend, ε."""
    delta: float = 1e-5
    """δ; well below one in the number of clients."""
    shares: NoiseShares = field(default_factory=NoiseShares)
    """How the noise of one exchange is shared; `peers` are those that are drawn."""
    ledger: Path | None = field(default=None, repr=False)
    """Where this client keeps what it has spent."""
    entropy: Entropy = field(default=SYSTEM, repr=False)
    """Where the noise comes from; anything but the system's is for tests."""

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, LocalSGD | DiLoCo | FederatedAveraging | FedProx):
            raise ValueError(
                "private clients need a strategy that averages whole updates: LocalSGD, DiLoCo, "
                f"FederatedAveraging or FedProx, not {type(self.strategy).__name__}"
            )
        if not self.clip > 0 or not self.noise_multiplier > 0:
            raise ValueError(
                "clip and noise_multiplier must be above 0, "
                f"not {self.clip} and {self.noise_multiplier}"
            )

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic, with a budget of its own."""
        budget = PrivacyBudget(epsilon=self.epsilon, delta=self.delta, ledger=self.ledger)
        return PrivateTactic(self, self.strategy.begin(parameters_E, me=me), budget)


class PrivateTactic:
    """Does what the inner tactic does, but offers nothing as it is."""

    def __init__(self, strategy: PrivateClients, inner: Tactic, budget: PrivacyBudget) -> None:
        self.budget = budget
        self._strategy = strategy
        self._inner = inner
        self._paid = False
        """Whether the offer that is out was paid for."""

    @property
    def offer_elements(self) -> int:
        """All of them."""
        return self._inner.offer_elements

    @property
    def interval(self) -> int:
        """As inside."""
        return self._inner.interval

    @property
    def delay(self) -> int:
        """None."""
        return self._inner.delay

    @property
    def trains(self) -> bool:
        """Whether this peer was drawn."""
        return self._inner.trains

    @property
    def trainers(self) -> int:
        """Those who were drawn."""
        return self._inner.trainers

    @property
    def corrects(self) -> bool:
        """As inside."""
        return self._inner.corrects

    @property
    def adjusts(self) -> bool:
        """As inside."""
        return self._inner.adjusts

    def on_interval(self, number: int) -> None:
        """As inside."""
        self._inner.on_interval(number)

    def on_peers(self, peers: Sequence[str]) -> None:
        """As inside."""
        self._inner.on_peers(peers)

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """As inside."""
        return self._inner.on_gradient(gradient_E, parameters_E)

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """As inside."""
        self._inner.on_local_step(samples=samples, loss=loss)

    def adjust(self, parameters_E: Vector) -> Vector:
        """As inside."""
        return self._inner.adjust(parameters_E)

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """As inside."""
        return self._inner.due(steps)

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """The update, cut, with its share of noise; each counts the same.

        Raises:
            PrivacyBudgetExhausted: it cannot be paid for; nothing is given away.
        """
        inner, strategy = self._inner.offer(exchange, parameters_E), self._strategy
        self._paid = False
        if inner.weight == 0:
            return inner
        self.budget.spend(rate=1.0, noise_multiplier=strategy.noise_multiplier)
        self._paid = True
        clipped_E = clipped(inner.vector_O, strategy.clip)
        deviation = strategy.shares.deviation(strategy.noise_multiplier * strategy.clip)
        noise_E = deviation * secret_normals(clipped_E.size, strategy.entropy)
        return Offer(np.asarray(clipped_E + noise_E, inner.vector_O.dtype), 1.0)

    def too_few(self) -> str | None:
        """Why nothing should be offered now; None if enough were drawn to hide each other."""
        needed = self._strategy.shares.needed
        if self.trainers >= needed:
            return None
        return (
            f"{needed} shares make up the whole noise, and {self.trainers} peers train: "
            "wait for more, or draw a larger fraction of them"
        )

    def on_contributors(self, count: int) -> None:
        """So many brought noise to the exchange; if they are too few, what was paid is corrected.

        Called before apply(), and after an exchange that failed when it may have been seen.
        """
        strategy = self._strategy
        stated = strategy.noise_multiplier
        actual = strategy.shares.effective(stated, max(1, count))
        if self._paid and actual < stated:
            self.budget.correct(rate=1.0, noise_multiplier=stated, actual=actual)
        self._paid = False

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """As inside: whatever comes of a noisy mean tells no more than the mean."""
        return self._inner.apply(exchange, answer_O, parameters_E)

    def shared(self) -> dict[str, Vector]:
        """As inside."""
        return self._inner.shared()

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """As inside."""
        return self._inner.load(shared)


def clipped(update_E: Vector, clip: float) -> Vector:
    """The update shortened to this length, as float64; zeros where it is not finite."""
    wide_E = update_E.astype(np.float64)
    length = float(np.linalg.norm(wide_E))
    if not np.isfinite(length):
        return np.zeros_like(wide_E)
    return wide_E * min(1.0, clip / length) if length else wide_E
