"""What a search for a group is given: the caller's wishes, and what searches share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from averaging.matchmaking import schema
from averaging.matchmaking.acquaintances import Acquaintances
from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.group import Join
from averaging.matchmaking.paths import Ways
from averaging.matchmaking.window import ArrivalWindow
from averaging.round_id import RoundId
from p2p import PeerId


@dataclass(frozen=True, kw_only=True)
class SeekRequest:
    """What the caller of find_group wants."""

    round: RoundId
    follow: bool
    """Whether to adopt a later round that others are in."""
    role: schema.Role
    weight_cap: float
    up_bytes_per_s: int
    """How fast we are, as far as we know; 0 if we do not."""
    down_bytes_per_s: int
    expected: tuple[PeerId, ...] | None
    """Whom to wait for; None: strangers, as the DHT and the last group show."""
    lost: tuple[PeerId, ...]
    previous: bytes
    previous_failed_at_s: float | None
    """When that group failed, on the clock of now_s; None if there is none."""
    abandoned: bool
    attempt: int
    group_size_min: int
    deadline_s: float
    """Absolute, on the clock of now_s."""
    addresses: tuple[str, ...]
    reference: bytes = b""
    """Digest of the result that our values are told by their difference from."""
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
    vector_bytes: int
    """Of the vector as it travels, for what relays would have to carry."""
    ways: Callable[[], Ways]
    config: MatchmakingConfig
    acquaintances: Acquaintances
    window: ArrivalWindow
    make_join: Callable[[RoundId, SeekRequest, tuple[PeerId, ...] | None], Join]
    """Given, by a leader that closes its group, who joined it."""
    next_ticket: Callable[[], int]


def checked_role(
    role: schema.Role | None, weight_cap: float, *, can_be_dialed: bool
) -> schema.Role:
    """The wished role, or what a peer is by itself; raises ValueError when it cannot be that."""
    role = role or ("node" if can_be_dialed else "client")
    if can_be_dialed == (role == "client"):
        can = "can" if can_be_dialed else "cannot"
        raise ValueError(f"a peer that {can} be dialed does not join as {role!r}")
    if role == "aux" and weight_cap:
        raise ValueError("an auxiliary peer contributes nothing, so its weight_cap is 0")
    return role


def rate_on_wire(rate_bytes_per_s: float | None) -> int:
    """A rate as a JOIN tells it, 0 for an unknown one."""
    if rate_bytes_per_s is None:
        return 0
    if not 0 < rate_bytes_per_s < math.inf:
        raise ValueError(f"a rate is positive and finite, or None, not {rate_bytes_per_s}")
    return min(max(round(rate_bytes_per_s), 1), schema.RATE_BYTES_PER_S_MAX)
