"""Streaming DiLoCo: one fragment of the parameters at a time, merged while training goes on.

Fragment f of F holds the elements f, f + F, f + 2F, … of the flat vector, so all are of one size
(the last element of some is padding) and each has its share of every tensor: no exchange is larger
than another, whatever the model's layers are. Each fragment is exchanged every `every` local steps,
one after another, so a link carries 1/F of the bytes F times as often. What the swarm made of a
fragment is merged `delay` local steps after it was offered, so that it may travel meanwhile.

    local step        0    H/F   2H/F   3H/F    H     …        F = 4
    offered           f=3  f=0   f=1    f=2    f=3
    merged                 τ later each: x ← mixing · x + (1 − mixing) · anchor, in the fragment

Source: A. Douillard et al., Streaming DiLoCo with overlapping communication (2025); there a
fragment is some layers of a transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.strategies.outer import Anchor, OuterStep
from training.strategies.strategy import Exchange, Offer, Tactic, Vector, check_interval


@dataclass(frozen=True, kw_only=True)
class StreamingDiLoCo:
    """DiLoCo, spread in time and over the parameters."""

    every: int = 48
    """Local steps between two exchanges of one fragment, H; a multiple of the fragments."""
    fragments: int = 4
    delay: int = 5
    """Local steps between the offer of a fragment and its merging, τ."""
    mixing: float = 0.5
    """How much of its own a peer keeps in merging, α: it has gone on meanwhile."""
    outer: OuterStep = field(default_factory=lambda: OuterStep(rate=0.7, momentum=0.9))

    def __post_init__(self) -> None:
        check_interval(self.every)
        if self.fragments < 1 or self.every % self.fragments:
            raise ValueError(
                f"every must be a multiple of the fragments: {self.every}, {self.fragments}"
            )
        if not 0 <= self.delay < self.every:
            raise ValueError("delay must be at least 0, and less than every")
        if not 0 <= self.mixing < 1:
            raise ValueError(f"mixing must be at least 0 and below 1, not {self.mixing}")

    def begin(self, parameters_E: Vector, *, me: str) -> Tactic:
        """This peer's tactic."""
        if parameters_E.size < self.fragments:
            raise ValueError(f"{self.fragments} fragments need as many parameters")
        return StreamingTactic(self, parameters_E)


class StreamingTactic:
    """Offers how far a fragment is from its anchor, and merges what comes of it later."""

    def __init__(self, strategy: StreamingDiLoCo, parameters_E: Vector) -> None:
        self._strategy = strategy
        self._anchor = Anchor(parameters_E, strategy.outer)
        self._interval = strategy.every // strategy.fragments
        self._fragment = slice(0, None, strategy.fragments)
        self._samples = 0
        self._offered = 0
        self._since_offer = strategy.delay
        self._peers = 1
        self._merges: list[tuple[int, slice]] = []
        """Local steps that are left until a fragment is merged."""

    @property
    def offer_elements(self) -> int:
        """A fragment's."""
        return -(-self._anchor.values_E.size // self._strategy.fragments)

    @property
    def interval(self) -> int:
        """H / F"""
        return self._interval

    @property
    def delay(self) -> int:
        """τ"""
        return self._strategy.delay

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
        """When a fragment is to be merged."""
        return any(left <= 0 for left, _ in self._merges)

    def on_interval(self, number: int) -> None:
        """The next fragment's turn."""
        # Samples since the offer count in the next one.
        self._samples -= self._offered
        self._offered = 0
        self._fragment = slice(number % self._strategy.fragments, None, self._strategy.fragments)

    def on_peers(self, peers: Sequence[str]) -> None:
        """See how many we are."""
        self._peers = max(1, len(peers))

    def on_gradient(self, gradient_E: Vector, parameters_E: Vector) -> Vector:
        """As it is."""
        return gradient_E.copy()

    def on_local_step(self, *, samples: int, loss: float | None = None) -> None:
        """Merging comes nearer."""
        self._samples += samples
        self._since_offer += 1
        self._merges = [(left - 1, fragment) for left, fragment in self._merges]

    def adjust(self, parameters_E: Vector) -> Vector:
        """With the fragments merged whose time has come."""
        merged_E = parameters_E.copy()
        for left, fragment in self._merges:
            if left <= 0:
                self._merge(merged_E, fragment)
        self._merges = [one for one in self._merges if one[0] > 0]
        return merged_E

    def due(self, steps: int) -> tuple[Exchange, ...]:
        """The mean of a fragment, F times in an interval."""
        return (Exchange.MEAN,) if steps >= self._interval else ()

    def offer(self, exchange: Exchange, parameters_E: Vector) -> Offer:
        """How far the fragment is from the anchor."""
        padded_O = np.zeros(self.offer_elements, parameters_E.dtype)
        change_P = self._anchor.change(parameters_E, self._fragment)
        padded_O[: change_P.size] = change_P
        self._offered = self._samples
        self._since_offer = 0
        return Offer(padded_O, float(self._samples))

    def apply(self, exchange: Exchange, answer_O: Vector, parameters_E: Vector) -> Vector:
        """The anchor's fragment moves now; ours follows after the delay."""
        elements = self._anchor.values_E[self._fragment].size
        self._anchor.step(answer_O[:elements], self._fragment)
        left = self._strategy.delay - self._since_offer
        if left > 0:
            self._merges.append((left, self._fragment))
            return parameters_E.copy()
        merged_E = parameters_E.copy()
        self._merge(merged_E, self._fragment)
        return merged_E

    def shared(self) -> dict[str, Vector]:
        """Anchor and velocity; each fragment as of its last exchange."""
        return self._anchor.shared()

    def load(self, shared: Mapping[str, Vector]) -> Vector:
        """Begin at the others' anchor; nothing is left to be merged."""
        self._anchor.load(shared)
        self._merges.clear()
        self._samples = self._offered = 0
        self._since_offer = self._strategy.delay
        return self._anchor.values_E.copy()

    def _merge(self, parameters_E: Vector, fragment: slice) -> None:
        mixing = self._strategy.mixing
        own_P, anchor_P = parameters_E[fragment], self._anchor.values_E[fragment]
        parameters_E[fragment] = mixing * own_P + (1 - mixing) * anchor_P if mixing else anchor_P
