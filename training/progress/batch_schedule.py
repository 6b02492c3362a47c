"""How many samples go into each global step (core).

All peers must name the same number, or they would disagree on which rounds bring a step. So a
schedule looks at the global step, and at what it remembers of earlier rounds: a few numbers that
follow from what all members of a round know alike. They are part of the peer's position in the run,
and so of its progress record, of the state that a latecomer downloads, and of checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

BatchMemory = tuple[float, ...]
"""What a schedule remembers; empty before the first step, and always where step alone decides."""


@dataclass(frozen=True, kw_only=True)
class StepNorms:
    """The norms of one global step's gradients, the same at every member."""

    members: tuple[tuple[float, float], ...]
    """Of each who contributed wholly, in order of peer ids: samples, and L2 norm of its mean."""
    whole: bool
    """Whether nobody contributed in part: then the mean is exactly that of these members."""
    squared: float
    """Of the mean over all their samples."""


class BatchSchedule(Protocol):
    """The global batch; an implementation's repr() must name all its options, as a dataclass's."""

    @property
    def uses_norms(self) -> bool:
        """Whether remember() is to be called; the mean's norm costs a pass over it."""

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """How many samples the swarm puts into this global step.

        The memory may come from a stranger: whatever it is, the answer keeps to the bounds.
        """

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """What is remembered after a step; only IEEE additions, products and quotients, so that
        every machine remembers the same bits."""


@dataclass(frozen=True)
class FixedBatch:
    """The same global batch at each step."""

    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"the global batch must be at least 1 sample, not {self.samples}")

    @property
    def uses_norms(self) -> bool:
        """It looks at nothing."""
        return False

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """Always the same."""
        return self.samples

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """Nothing."""
        return ()


@dataclass(frozen=True, kw_only=True)
class RampBatch:
    """From one global batch to another over so many steps, then the last one for good.

    `linear` grows by the same number of samples at each step, as GPT-3's batches did; `doubling`
    doubles (or halves) at even distances, which keeps few sizes and the largest steps last.

    Source: S. Smith et al., Don't Decay the Learning Rate, Increase the Batch Size (2018),
    section 3; T. Brown et al., Language Models are Few-Shot Learners (2020), appendix B.
    """

    first: int
    last: int
    steps: int
    """The first step with the last batch."""
    kind: Literal["linear", "doubling"] = "linear"

    def __post_init__(self) -> None:
        if min(self.first, self.last) < 1:
            raise ValueError(
                f"the global batch must be at least 1 sample, not {min(self.first, self.last)}"
            )
        if self.steps < 1:
            raise ValueError(f"a ramp takes at least 1 step, not {self.steps}")
        if self.kind not in ("linear", "doubling"):
            raise ValueError(f"a ramp is 'linear' or 'doubling', not {self.kind!r}")

    @property
    def uses_norms(self) -> bool:
        """It looks at the step alone."""
        return False

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """On the way between the two, both included."""
        if step >= self.steps:
            return self.last
        if self.kind == "linear":
            return self.first + (self.last - self.first) * step // self.steps
        low, high = sorted((self.first, self.last))
        doublings = (-(-high // low) - 1).bit_length()
        done = step * doublings // self.steps
        if self.first <= self.last:
            return min(self.first << done, self.last)
        return max(self.first >> done, self.last)

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """Nothing."""
        return ()


# Half of the average's weight must be measured before it moves anything.
_WEIGHT_MIN = 0.5
# No step changes the batch by more than this factor.
_FACTOR_MAX = 2
# What may be remembered and sent; far from where squares overflow.
NUMBER_MAX = 1e300


@dataclass(frozen=True, kw_only=True)
class NoiseScaleBatch:
    """The batch at which gradient noise and gradient are equally large, as measured on the way.

    Below the simple noise scale B = tr Σ / |G|² (Σ: covariance of one sample's gradient, G: the
    true gradient) twice the batch nearly halves the steps that are needed; above it, it hardly
    saves any. Both are estimated from each step's norms, averaged over many steps separately, and
    the next batch is their quotient: between the bounds, on the grid, and at most twice or half of
    the last one. With one contributor nothing can be measured, and the batch stays.

    Memory: (samples, average of |G|², average of tr Σ, the averages' weight).

    Source: S. McCandlish et al., An Empirical Model of Large-Batch Training (2018), section 2.2
    and appendix A.1.
    """

    first: int
    smallest: int
    largest: int
    grid: int = 1
    """All batches are multiples of it."""
    decay: float = 0.95
    """How much of the averages is kept at each step: about the last 1 / (1 - decay) steps count,
    and half as many are measured before the batch first moves."""

    def __post_init__(self) -> None:
        if self.grid < 1 or any(n % self.grid for n in (self.first, self.smallest, self.largest)):
            raise ValueError("first, smallest and largest must be multiples of grid, at least 1")
        if not 1 <= self.smallest <= self.first <= self.largest:
            raise ValueError(
                "the batches must be 1 <= smallest <= first <= largest, not "
                f"{self.smallest}, {self.first}, {self.largest}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {self.decay}")

    @property
    def uses_norms(self) -> bool:
        """All that it does follows from them."""
        return True

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """What the last step led to."""
        return self._recalled(memory)[0]

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """The averages with one more step, and the batch that follows from them."""
        samples, gradient, noise, weight = self._recalled(memory)
        measured = measure_noise(norms)
        if measured is None:
            return memory
        gradient = self.decay * gradient + (1 - self.decay) * measured[0]
        noise = self.decay * noise + (1 - self.decay) * measured[1]
        weight = self.decay * weight + (1 - self.decay)
        if weight >= _WEIGHT_MIN:
            samples = self._next(samples, gradient, noise)
        return (float(samples), gradient, noise, weight)

    def _next(self, samples: int, gradient: float, noise: float) -> int:
        low = max(self.smallest, -(-samples // _FACTOR_MAX))
        high = min(self.largest, samples * _FACTOR_MAX)
        if noise <= 0:
            wanted = float(low)
        elif gradient <= 0 or noise / gradient > high:
            # Noise hides the gradient altogether, or nearly.
            wanted = float(high)
        else:
            wanted = max(noise / gradient, float(low))
        on_grid = math.floor(wanted / self.grid + 0.5) * self.grid
        # A grid wider than the way lets nothing through but the ends that lie on it.
        lowest = -(-low // self.grid) * self.grid
        return min(max(on_grid, lowest), high // self.grid * self.grid)

    def _recalled(self, memory: BatchMemory) -> tuple[int, float, float, float]:
        if len(memory) != 4 or not self.smallest <= memory[0] <= self.largest:
            return (self.first, 0.0, 0.0, 0.0)
        return (int(memory[0]), memory[1], memory[2], memory[3])


def measure_noise(norms: StepNorms) -> tuple[float, float] | None:
    """|G|² and tr Σ as one step shows them, both without bias; None when it shows nothing.

    With samples w_i, their sum W, member means g_i and the whole mean g of n members:
    tr Σ ≈ (sum w_i |g_i|² - W |g|²) / (n - 1) and |G|² ≈ |g|² - tr Σ / W. For equal w_i these are
    the paper's, with B_small = W / n and B_big = W. Either may come out below zero.
    """
    count = len(norms.members)
    samples = squares = 0.0
    for member_samples, norm in norms.members:
        samples += member_samples
        squares += member_samples * (norm * norm)
    if count < 2 or not norms.whole or samples <= 0:
        return None
    noise = (squares - samples * norms.squared) / (count - 1)
    gradient = norms.squared - noise / samples
    if not max(abs(noise), abs(gradient)) <= NUMBER_MAX:
        return None
    return gradient, noise
