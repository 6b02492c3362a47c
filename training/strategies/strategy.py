"""What every local strategy is: when peers exchange something, what they offer and what they apply.

Each peer takes optimizer steps of its own; every so many of them the swarm exchanges something. A
strategy's options are equal at all peers. With them each peer begins a *tactic*, which decides for
this peer and moves no bytes:

    a gradient was computed    on_gradient(), where the tactic corrects gradients
    a local step was taken     on_local_step(), then adjust() where the tactic asks for it
    each peer took `steps`     due(): what is to be exchanged now
    the exchange begins        offer(): what this peer puts in, and how much that counts
    the answer is here         apply(): the parameters to go on from
    the exchange failed        nothing: what would have been exchanged is in the next offer

Parameters are one flat vector, whose elements are those of all trained tensors in order of names.
Legend of shapes: E = elements of all trained parameters, O = elements of an offer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.floating[Any]]]
"""One dimension, float32 or float64."""


class Exchange(Enum):
    """What a tactic asks of the swarm."""

    MEAN = "the mean of what all offer"
    GROUP_LEADER = "the parameters of the best peer of the own group"
    SWARM_LEADER = "the parameters of the best peer of all"


@dataclass(frozen=True)
class Offer:
    """What a peer puts into an exchange."""

    vector_O: Vector
    """The caller's own: a round may overwrite it with its result."""
    weight: float
    """How much it counts in a mean; 0 only receives."""


class Tactic(Protocol):
    """One peer's side of a strategy."""

    @property
    def offer_elements(self) -> int:
        """O, the same for each exchange."""

    @property
    def interval(self) -> int:
        """Local steps of each peer that trains between two exchanges."""

    @property
    def delay(self) -> int:
        """Local steps that may be taken between an offer and its answer; 0: the peer waits."""

    @property
    def trains(self) -> bool:
        """Whether this peer takes local steps now; a client that was not drawn does not."""

    @property
    def trainers(self) -> int:
        """How many of those who are there do; at least 1."""

    @property
    def corrects(self) -> bool:
        """Whether on_gradient() is to be called before each local step."""

    @property
    def adjusts(self) -> bool:
        """Whether adjust() is to be called before the next local step."""

    def on_interval(self, number: int) -> None:
        """Local steps begin anew: at the very beginning, and after each exchange.

        Args:
            number: exchanges made so far, the same at all peers that average.
        """

    def on_peers(self, peers: Sequence[str]) -> None:
        """Who is there now, this peer included."""

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """A gradient was computed at these parameters; returns the one to step with, a new vector.

        What the loss did not reach has a gradient of 0.
        """

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """A local step was taken on so many samples, whose loss before it was this."""

    def adjust(self, parameters_E: Vector) -> Vector:
        """The parameters to go on from, a new vector."""

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """What to exchange, in this order.

        Args:
            steps: local steps since the last exchange of each peer that trains, on average.
        """

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """What this peer puts in; may be asked again when the exchange failed."""

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """The parameters to go on from, a new vector.

        Args:
            answer_O: the mean of all offers, or a leader's parameters.
            parameters_E: this peer's, as they were offered.
        """

    def shared(self) -> dict[str, Vector]:
        """What all peers hold alike after an exchange, for newcomers and checkpoints; copies."""

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Take over what others share; returns the parameters to begin with, a new vector."""


class Strategy(Protocol):
    """The options of a strategy; repr() names it, and must be equal at all peers."""

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic, beginning with these parameters, which are copied."""


def check_interval(every: int) -> None:
    """Raise ValueError unless this is a number of local steps."""
    if every < 1:
        raise ValueError(f"every must be at least 1 local step, not {every}")
