"""What a search for a group is given: the caller's wishes, and what searches share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from averaging.matchmaking.acquaintances import Acquaintances
from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.group import Join
from averaging.matchmaking.window import ArrivalWindow
from averaging.round_id import RoundId
from p2p import PeerId


@dataclass(frozen=True, kw_only=True)
class SeekRequest:
    """What the caller of find_group wants."""

    round: RoundId
    follow: bool
    """Whether to adopt a later round that others are in."""
    weight_cap: float
    expected: tuple[PeerId, ...] | None
    """Whom to wait for; None: strangers, as the DHT and the last group show."""
    lost: tuple[PeerId, ...]
    previous: bytes
    abandoned: bool
    attempt: int
    group_size_min: int
    deadline_s: float
    """Absolute, on the clock of now_s."""
    addresses: tuple[str, ...]
    bucket: str | None = None
    """Where in the grid, as the matcher knows; None without a grid."""
    bucket_size: int = 0
    """How many members are to be expected in it."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a search shares with those before and after it."""

    own: PeerId
    can_lead: bool
    element_count: int
    config: MatchmakingConfig
    acquaintances: Acquaintances
    window: ArrivalWindow
    make_join: Callable[[RoundId, SeekRequest], Join]
    next_ticket: Callable[[], int]
