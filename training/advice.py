"""What a session and the thread that trains tell each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from averaging import RoundReport, Snapshot
from training.model_state import Array
from training.progress import Position

OnCaller = Callable[[Callable[[], Snapshot]], Awaitable[Snapshot]]
"""Runs a function on the thread that trains, when it next has a moment: CallerJobs.run."""


class Advice(Enum):
    """What to do after a micro-batch."""

    ACCUMULATE = "go on computing"
    ROUND = "the global batch is there: average and step"
    CATCH_UP = "the swarm is elsewhere: take over its state"


@dataclass(frozen=True)
class RoundResult:
    """A round that succeeded, and where it leads."""

    report: RoundReport
    accepted: bool
    """Whether enough was delivered for a global step."""
    position: Position
    shared: Mapping[str, Array] = field(default_factory=dict)
    """What all peers hold beside the model after the step that it brings; see `rounds`."""
