"""The options of the all-reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from averaging.robust.rule import Rule


@dataclass(frozen=True, kw_only=True)
class BallotTimes:
    """How patient a member is."""

    ask_interval_s: float = 0.1
    """First pause before asking the same member again; it doubles with each question."""
    ask_interval_s_max: float = 1.0
    """The longest such pause."""
    vote_patience_s: float = 1.0
    """A voter without a certificate for so long asks everyone itself."""
    plan_patience_s: float = 1.0
    """How long a member waits for the plan of one that comes before it."""


@dataclass(frozen=True, kw_only=True)
class AllreduceConfig:
    """When a member counts as lost, and what is kept for those who come late."""

    silence_s: float = 2.5
    """A stream on which nothing came for so long while we listened is silent: its peer is lost."""
    ping_s: float = 0.5
    """How often a member with nothing to say says so."""
    linger_s: float = 10.0
    """How long a result is kept after the round, to serve members that lack a piece of it."""
    results_kept_max: int = 2
    """Results kept at once; each takes the vector's bytes on the wire."""
    ask_timeout_s: float = 1.0
    """How long a member may take to say how it stands; it answers from memory."""
    farewell_s: float = 2.0
    """How long a member that leaves waits for others to take what it still has for them."""
    chunks_ahead_max: int = 2
    """Chunks that a member may send beyond the one that is awaited; what an aggregator buffers."""
    votes_min: int = 1
    """Fewer votes commit nothing, though they be a quorum of their group. With more than half of
    all peers here, at every peer, two groups of one round can never both succeed."""
    planned_bytes_max: int = 64 << 20
    """After a plan, whole pieces may wait for slow senders; over so many bytes only what the oldest
    of them waits for is taken."""
    grace_s: float = 1.0
    """How long chunks may wait for a member, in all, before its pace is held against the plan."""
    start_patience_s: float = 10.0
    """How long a member may begin after most of the others; it is left out of the mean then."""
    norm_factor_max: float = 10.0
    """A vector whose norm is over so many times the median of the members' is refused, in groups
    of three and more; 0 takes any."""
    tolerated_liars: int = 0
    """Members that may vote for whatever they like without two honest ones ever succeeding with
    different bits; groups need at least three times as many members and one."""
    rule: str = "mean"
    """How contributions are combined: see `averaging.robust`."""
    times: BallotTimes = field(default_factory=BallotTimes)
    """How patient a member is with the others' answers."""

    def __post_init__(self) -> None:
        seconds = (self.silence_s, self.ping_s, self.ask_timeout_s, self.start_patience_s)
        if not all(0 < value < math.inf for value in seconds) or 2 * self.ping_s > self.silence_s:
            raise ValueError("timeouts must be positive, and ping_s at most half of silence_s")
        if not (0 <= self.linger_s < math.inf and 0 <= self.farewell_s < math.inf):
            raise ValueError("linger_s and farewell_s must be at least 0")
        if min(self.results_kept_max, self.chunks_ahead_max, self.votes_min) < 1:
            raise ValueError("results_kept_max, chunks_ahead_max and votes_min must be at least 1")
        if self.planned_bytes_max < 0:
            raise ValueError("planned_bytes_max must be at least 0")
        Rule.parse(self.rule)
        if self.grace_s < 0 or self.tolerated_liars < 0 or self.norm_factor_max < 0:
            raise ValueError("grace_s, tolerated_liars and norm_factor_max must be at least 0")
