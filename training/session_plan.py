"""SessionPlan: what the network's side of training needs to know of a model and its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from averaging import Manifest, SecureConfig, Snapshot, TensorSpec
from training.progress import BatchSchedule, Position, Sketch


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What a session needs to know of the model and the run."""

    run: str
    spec: TensorSpec
    """The gradients."""
    spec_hash: bytes
    """What all peers must share: the spec, the optimizer, the global batch, how it steps."""
    schedule: BatchSchedule
    position: Position
    check_state: Callable[[Manifest], str | None]
    """Says why an offered state is not one of this model."""
    sketch: Sketch = ()
    """Of the parameters at the beginning."""
    rounding: float = 0.0
    """How far rounding may lead parameters, as a part of their norm."""
    secure: SecureConfig | None = None
    """Rounds are secure sums of this kind; None averages in the open."""
    take_snapshot: Callable[[], Snapshot]
    """Runs on the caller's thread; the same object as long as the state is the same."""
