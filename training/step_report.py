"""StepReport: what one call of SwarmOptimizer.step() did."""

from __future__ import annotations

from dataclasses import dataclass

from averaging import RoundReport


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one call of step() did.

    With delayed updates a call may take a step with a round that has ended, and begin the next.
    """

    global_step: int
    """Global steps taken so far."""
    stepped: bool
    """Whether this call took one."""
    samples: int
    """This peer's: those that went into the step, or those accumulated for the next one."""
    target: int
    """The global batch of the step that comes next; with a strategy, how many local steps all
    together take until the next exchange."""
    skipped: bool = False
    """This micro-batch had gradients that are infinite or no numbers, and was left out."""
    round: RoundReport | None = None
    """The round that was held, successful or not; with delayed updates, the one whose step was
    taken, or that has failed."""
    caught_up: bool = False
    """The swarm was elsewhere, and its state was taken over; what was accumulated is gone."""
    reaveraged: bool = False
    """The state itself was averaged after the step: all who took part hold the same bits."""
    began: bool = False
    """With delayed updates: the round of the batch that this call filled is under way."""
    waited_s: float = 0.0
    """How long this call waited for the network: for others, for the round, for a download."""
    failure: str = ""
    """Why no step was taken though it was due; step() tries again at its next call."""
