"""Outer steps: how the mean of all peers' changes moves what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.strategies.strategy import Vector


@dataclass(frozen=True, kw_only=True)
class OuterStep:
    """SGD with Nesterov's momentum on the mean change; the defaults take the plain mean."""

    rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 2 or not 0 <= self.momentum < 1:
            raise ValueError(
                "an outer step needs 0 < rate <= 2 and 0 <= momentum < 1, "
                f"not {self.rate} and {self.momentum}"
            )


class Anchor:
    """The parameters as of the last exchange: the same bits at all peers.

    Each multiplication and each addition is rounded by itself, as NumPy does it, so that different
    processors get the same bits from the same mean.
    """

    def __init__(self, parameters_E: Vector, outer: OuterStep) -> None:
        self.values_E = parameters_E.copy()
        self._outer = outer
        self._velocity_E = np.zeros_like(parameters_E) if outer.momentum else None

    def change(self, parameters_E: Vector, fragment: slice = slice(None)) -> Vector:
        """How far these parameters are behind the anchor: Δ = anchor − parameters."""
        return self.values_E[fragment] - parameters_E[fragment]

    def step(self, change_P: Vector, fragment: slice = slice(None)) -> None:
        """Move the anchor, or a fragment of P elements of it, by the mean change.

        velocity ← momentum · velocity + Δ;  anchor ← anchor − rate · (Δ + momentum · velocity)
        """
        direction_P: Vector = np.asarray(change_P, self.values_E.dtype)
        if self._velocity_E is not None:
            momentum = self._outer.momentum
            velocity_P = self._velocity_E[fragment]
            velocity_P *= momentum
            velocity_P += direction_P
            direction_P = direction_P + momentum * velocity_P
        if self._outer.rate != 1.0:
            direction_P = self._outer.rate * direction_P
        self.values_E[fragment] -= direction_P

    def shared(self) -> dict[str, Vector]:
        """Copies of what all hold alike."""
        if self._velocity_E is None:
            return {"anchor": self.values_E.copy()}
        return {"anchor": self.values_E.copy(), "velocity": self._velocity_E.copy()}

    def load(self, shared: Mapping[str, Vector]) -> None:
        """Take over what others share."""
        self.values_E[...] = shared["anchor"]
        if self._velocity_E is not None:
            self._velocity_E[...] = shared["velocity"]
