"""How many samples go into each global step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class BatchSchedule(Protocol):
    """The global batch as a function of the global step alone, so that all peers agree on it."""

    def samples_at(self, step: int) -> int:
        """How many samples the swarm puts into this global step."""


@dataclass(frozen=True)
class FixedBatch:
    """The same global batch at each step."""

    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"the global batch must be at least 1 sample, not {self.samples}")

    def samples_at(self, step: int) -> int:
        """Always the same."""
        return self.samples
