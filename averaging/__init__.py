"""Averaging of vectors among peers: groups, all-reduce with an agreed outcome, state download."""

from averaging.allreduce.balance import Capacity, planned_seconds
from averaging.averager import Averager, PreparedRound, open_averager
from averaging.config import AveragerConfig
from averaging.errors import AveragingError, MatchmakingFailed, RoundFailed, StateUnavailable
from averaging.matchmaking.plan import plan_spans
from averaging.report import MemberReport, RoundReport
from averaging.round_id import RoundId
from averaging.state import (
    DonorConfig,
    FetchConfig,
    Manifest,
    Snapshot,
    StateDonor,
    StateTable,
    fetch_state,
    open_state_donor,
)
from averaging.tensors import TensorSpec

__all__ = [
    "Averager",
    "AveragerConfig",
    "AveragingError",
    "Capacity",
    "DonorConfig",
    "FetchConfig",
    "Manifest",
    "MatchmakingFailed",
    "MemberReport",
    "PreparedRound",
    "RoundFailed",
    "RoundId",
    "RoundReport",
    "Snapshot",
    "StateDonor",
    "StateTable",
    "StateUnavailable",
    "TensorSpec",
    "fetch_state",
    "open_averager",
    "open_state_donor",
    "plan_spans",
    "planned_seconds",
]
