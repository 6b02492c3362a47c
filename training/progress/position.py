"""Where a peer stands in a run, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from averaging import RoundId
from p2p import PeerId
from training.progress.batch_schedule import BatchMemory, BatchSchedule
from training.progress.drift import Sketch

Role = Literal["node", "client"]


@dataclass(frozen=True, order=True)
class Position:
    """How far a peer is: the round it holds next, and what lies behind it."""

    round: RoundId
    """Rounds committed so far, and the digest of the last: who names the same holds the same."""
    step: int = 0
    """Global steps taken; fewer than rounds where a round was discarded or averaged the state."""
    samples: int = 0
    """Samples that went into all those steps."""
    batch_memory: BatchMemory = ()
    """What the batch schedule remembers of them."""

    def target(self, schedule: BatchSchedule) -> int:
        """The global batch of the step that comes next."""
        return schedule.samples_at(self.step, self.batch_memory)


@dataclass(frozen=True, kw_only=True)
class PeerRecord:
    """What a peer says of itself; the newest sequence number counts."""

    position: Position
    spec_hash: bytes
    samples: int = 0
    samples_per_s: float = 0.0
    role: Role = "node"
    holds_state: bool = True
    waits: bool = False
    """It has stopped computing and waits for the round at hand."""
    period_s: float = 0.0
    """How long it computes between two moments at which it could join a round; 0: unknown."""
    sketch: Sketch = ()
    """Of its parameters at this position; empty if it does not say."""
    sequence: int = 0


@dataclass(frozen=True, kw_only=True)
class PeerProgress:
    """One live peer of the run, as shown to users."""

    peer_id: PeerId
    step: int
    samples: int
    """Accumulated for the next global step."""
    samples_per_s: float
    role: Role
    holds_state: bool
    """False while it still downloads the state of the swarm."""
    is_me: bool

    @classmethod
    def of(cls, peer_id: PeerId, record: PeerRecord, *, is_me: bool) -> PeerProgress:
        """The record in short."""
        return cls(
            peer_id=peer_id,
            step=record.position.step,
            samples=record.samples,
            samples_per_s=record.samples_per_s,
            role=record.role,
            holds_state=record.holds_state,
            is_me=is_me,
        )
