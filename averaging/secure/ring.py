"""The ring: real vectors as whole numbers modulo 2^32 or 2^64, whose sum cannot overflow (core).

An element x of a member with weight w becomes round(x · w · Q / (value_max · weight_max)), and its
weight round(w · Q / weight_max), with Q so small that n members' sums stay below half of the ring.
The mean is value_max times the ratio of both sums. Values beyond ± value_max are clipped: nobody
can check norms behind masks, so each member clips its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Bits = Literal[32, 64]

# Doubles hold every whole number up to here, so that no rounding leaves the range.
_QUANTUM_MAX: Final = 2**52
_STEP: Final = 65_536


class SumInvalid(Exception):
    """No honest members have this sum: somebody put in values out of range."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """How the vectors of one group become whole numbers, and their sum a mean."""

    bits: Bits
    members: int
    """The most that may be added up."""
    value_max: float
    """The largest absolute value of an element; larger ones are clipped to it."""
    weight_max: float
    """The largest weight."""

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise ValueError(f"a ring has 32 or 64 bits, not {self.bits}")
        if self.members < 1 or self.quantum < 1:
            raise ValueError(f"a ring of {self.bits} bits is too small for {self.members} members")
        if not all(0 < limit < math.inf for limit in (self.value_max, self.weight_max)):
            raise ValueError("value_max and weight_max must be positive and finite")

    @property
    def quantum(self) -> int:
        """Q, what the largest value at the largest weight becomes."""
        return int(min((2 ** (self.bits - 1) - 1) // self.members, _QUANTUM_MAX))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of elements of the ring: unsigned, little endian as they travel."""
        return np.dtype(f"<u{self.bits // 8}")

    def weight_of(self, weight: float) -> int:
        """A weight as an element of the ring.

        Raises:
            ValueError: it is negative, over the largest, or no number.
        """
        if not 0 <= weight <= self.weight_max:
            raise ValueError(f"weight must be between 0 and {self.weight_max:g}, not {weight}")
        return round(weight / self.weight_max * self.quantum)

    def encode(self, vector: Array, weight: float, out: Array) -> int:
        """A weighted vector as elements of the ring, its weight behind it.

        Args:
            vector: shape (elements,), float, kept unchanged.
            out: shape (elements + 1,), of the ring's dtype, overwritten.

        Returns:
            How many values were clipped.

        Raises:
            ValueError: a value is not finite, or the weight out of range.
        """
        limit = self.weight_of(weight)
        factor = weight / self.weight_max * (self.quantum / self.value_max)
        signed = out.view(f"<i{self.bits // 8}")
        clipped = 0
        for first in range(0, len(vector), _STEP):
            part = vector[first : first + _STEP].astype(np.float64)
            over = np.count_nonzero(np.abs(part) > self.value_max)
            if not np.isfinite(part).all():
                raise ValueError("the vector has values that are not finite; nothing was sent")
            clipped += int(over)
            part *= factor
            np.rint(part, out=part)
            np.clip(part, -limit, limit, out=part)
            signed[first : first + len(part)] = part
        signed[-1] = limit
        return clipped

    def decode(self, sums: Array, out: Array) -> float:
        """The weighted mean, from the sums of what encode() gave.

        The same sums give the same bits everywhere: one division, one product, one rounding.

        Args:
            sums: shape (elements + 1,), of the ring's dtype.
            out: shape (elements,), float, overwritten.

        Returns:
            The sum of the weights.

        Raises:
            SumInvalid: the weights sum to nothing or too much, or a mean is beyond value_max.
        """
        signed = sums.view(f"<i{self.bits // 8}")
        total = int(signed[-1])
        if not 0 <= total <= self.members * self.quantum:
            raise SumInvalid("the weights sum to what no weights can; some member cheated")
        if total == 0:
            raise SumInvalid("all weights are zero")
        values = signed[:-1]
        if len(values) and (int(values.max()) > total or int(values.min()) < -total):
            raise SumInvalid("the sum is out of range; some member put in more than it may")
        for first in range(0, len(values), _STEP):
            part = values[first : first + _STEP].astype(np.float64)
            part *= self.value_max / total
            out[first : first + len(part)] = part
        return total / self.quantum * self.weight_max
