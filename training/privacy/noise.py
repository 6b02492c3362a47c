"""Noise that nobody can guess, whole or in shares that several peers add.

Whoever can guess the noise can take it away again, and whoever can guess who was drawn has no
sampling to reckon with. So both come from the system's secure chance, not from the run's seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Entropy = Callable[[int], bytes]
"""Gives so many bytes that nobody can foresee."""
SYSTEM: Entropy = os.urandom
_BITS = 52  # with half a step added, still a double


@dataclass(frozen=True, kw_only=True)
class NoiseShares:
    """Who adds how much, so that the sum has the whole noise even when some are missing.

    Each of `peers` adds noise of variance σ² C² / (peers − tolerated_drops). The sum has at least
    σ² C² as long as no more than `tolerated_drops` peers drop out, or know their own share and
    subtract it: those who drop out and those who collude count together.

    Trust: the shares protect from whoever sees sums only. An aggregator that sees one peer's vector
    sees it with that peer's share alone, so either aggregators are trusted or they see masked
    vectors only (secure aggregation). Where nobody is trusted each peer adds the whole noise, which
    is the default.
    """

    peers: int = 1
    """Those who add noise to one sum, n; if more do, there is more noise than needed."""
    tolerated_drops: int = 0
    """Those of them who may be missing or collude, t."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated_drops < self.peers:
            raise ValueError(
                f"need 0 <= tolerated_drops < peers, not {self.tolerated_drops} of {self.peers}"
            )

    @property
    def needed(self) -> int:
        """How many shares make up the whole noise."""
        return self.peers - self.tolerated_drops

    def deviation(self, whole: float) -> float:
        """Of one share, where the whole noise has this deviation."""
        return whole / sqrt(self.needed)

    def check_group(self, group_size_min: int) -> None:
        """Raise ValueError where a round may begin with fewer than make up the whole noise."""
        if group_size_min < self.needed:
            raise ValueError(
                f"{self.needed} shares make up the whole noise, and a round may begin with "
                f"{group_size_min}: join the run with config=SwarmConfig(averager="
                f"AveragerConfig(group_size_min={self.needed}))"
            )

    def effective(self, noise_multiplier: float, present: int) -> float:
        """The noise multiplier of a sum of so many shares; never more than the stated one."""
        return noise_multiplier * sqrt(min(1.0, present / self.needed))


def secret_uniforms(count: int, entropy: Entropy = SYSTEM) -> npt.NDArray[np.float64]:
    """Numbers above 0 and below 1 with 52 random bits each."""
    raw = np.frombuffer(entropy(8 * count), dtype="<u8")
    whole = (raw >> np.uint64(64 - _BITS)).astype(np.float64)
    return (whole + 0.5) * 2.0**-_BITS


def secret_normals(count: int, entropy: Entropy = SYSTEM) -> npt.NDArray[np.float64]:
    """Standard normal numbers, by the inverse of the distribution function.

    They lie on a grid of doubles, as every computer's do. For whom the last bits are a danger,
    round what has all its noise; to round shares before they are summed is an approximation.
    Source: I. Mironov, On Significance of the Least Significant Bits for Differential Privacy
    (2012).
    """
    return np.asarray(ndtri(secret_uniforms(count, entropy)))
