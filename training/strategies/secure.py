"""SecureExchange: the options of exchanges that are secure sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SecureExchange:
    """How offers become whole numbers that masks hide; the same at all peers."""

    value_max: float | None = None
    """The largest absolute value of an element of an update, or of a buffer; None: 8, or for
    private clients the clip and eight widths of the noise. The larger, the coarser."""
    samples_max: int = 4096
    """A peer that has trained on more since the last exchange counts as with so many. Best a few
    times what one takes: a peer with a small part of it is summed in coarse steps. Private clients
    all count the same."""
    bits: Literal[32, 64] = 32
    """Of a whole number. With 32, n peers have steps of n · value_max · samples_max / (samples ·
    2^31); 64 is as fine as float64 and takes twice the bytes."""

    def __post_init__(self) -> None:
        if self.value_max is not None and not 0 < self.value_max < math.inf:
            raise ValueError(f"value_max must be positive, not {self.value_max}")
        if self.samples_max < 1:
            raise ValueError(f"samples_max must be at least 1, not {self.samples_max}")
        if self.bits not in (32, 64):
            raise ValueError(f"bits must be 32 or 64, not {self.bits}")
