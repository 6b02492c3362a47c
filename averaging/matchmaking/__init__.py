"""Matchmaking: who averages with whom in a round, agreed without clocks or elections."""

from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.group import Group, Join, blocking, quorum_reached
from averaging.matchmaking.service import Matchmaking, open_matchmaking

__all__ = [
    "Group",
    "Join",
    "Matchmaking",
    "MatchmakingConfig",
    "blocking",
    "open_matchmaking",
    "quorum_reached",
]
