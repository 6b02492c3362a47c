"""The options of matchmaking."""

from __future__ import annotations

import math
from dataclasses import dataclass

from averaging.matchmaking import schema


@dataclass(frozen=True, kw_only=True)
class MatchmakingConfig:
    """How long a group waits for its members, and how large it may be."""

    group_size_max: int = 64
    """A group of this size closes at once; every member holds a stream to every aggregator."""
    group_size_min: int = 1
    """A group with fewer contributors does not start: a swarm that must not fork asks for half of
    its voters."""
    terms: str = ""
    """How contributions are combined and agreed on, in words; members must agree."""
    join_window_s: float = 5.0
    """The longest wait for members that may come, and for a better-ranked peer that is not yet
    looking; the first round waits so long, later ones as the members' past arrivals suggest."""
    join_window_s_min: float = 1.5
    """The shortest such wait, however punctual everybody was: a busy machine may begin its step a
    second late, and who is gone is known sooner by its connection."""
    partition_patience_s: float = 60.0
    """How long a group waits whose failed predecessor may have succeeded out of sight; after
    that it goes on as a fork."""
    tolerated_liars: int = 0
    """So many promises never to vote in a failed group may be lies."""
    chunk_elements_max: int = 131_072
    """The longest chunk of a group that we lead, in elements; such that it fits into a message."""
    grid: bool = False
    """Whether a swarm larger than one group meets in buckets that mix from round to round. Then a
    round has many results, one for each group, so rounds are told apart by number and bucket
    alone, and nobody is behind for building on another result. Members must agree."""

    def __post_init__(self) -> None:
        if not 1 <= self.group_size_min <= self.group_size_max <= schema.GROUP_SIZE_MAX:
            raise ValueError(
                f"need 1 <= group_size_min <= group_size_max <= {schema.GROUP_SIZE_MAX}, "
                f"not {self.group_size_min} and {self.group_size_max}"
            )
        if not 0 < self.join_window_s_min <= self.join_window_s < math.inf:
            raise ValueError(
                "need 0 < join_window_s_min <= join_window_s, "
                f"not {self.join_window_s_min} and {self.join_window_s}"
            )
        if not 0 <= self.partition_patience_s < math.inf:
            raise ValueError(f"partition_patience_s must be >= 0, not {self.partition_patience_s}")
        if not 4096 <= self.chunk_elements_max <= schema.CHUNK_ELEMENTS_MAX:
            raise ValueError(
                f"need 4096 <= chunk_elements_max <= {schema.CHUNK_ELEMENTS_MAX}, "
                f"not {self.chunk_elements_max}"
            )
        if self.tolerated_liars < 0:
            raise ValueError(f"tolerated_liars must be >= 0, not {self.tolerated_liars}")
        if len(self.terms) > schema.TERMS_TEXT_MAX:
            raise ValueError(f"terms are too long: {self.terms!r}")
