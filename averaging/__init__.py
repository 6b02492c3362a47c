"""Averaging of vectors among peers: groups, all-reduce with an agreed outcome, state download.

The names below are loaded when they are first asked for. So codecs can be used where the network
layer is not installed, such as on a machine that only measures them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from averaging.allreduce.balance import Capacity, planned_seconds
    from averaging.allreduce.service import Used
    from averaging.averager import Averager, PreparedRound, open_averager
    from averaging.config import AveragerConfig
    from averaging.errors import (
        AveragingError,
        MatchmakingFailed,
        RoundFailed,
        StateUnavailable,
        UpdateSpent,
    )
    from averaging.homomorphic import (
        ExtraMissing,
        HomomorphicSpec,
        SumConfig,
        SumFailed,
        SumMember,
        SumReport,
        adder_untrusted,
        draw_key,
        open_sum_aggregator,
        open_sum_member,
    )
    from averaging.low_rank import (
        LowRankAverager,
        low_rank_query_count,
        open_low_rank_averager,
    )
    from averaging.matchmaking.plan import plan_spans
    from averaging.matchmaking.strangers import STRANGERS_VALIDATOR
    from averaging.report import MemberReport, RoundReport
    from averaging.round_id import RoundId
    from averaging.secure.averager import SecureAverager, open_secure_averager
    from averaging.secure.config import SecureConfig, check_secure_options
    from averaging.secure.service import SecureResult, SecureSum, open_secure_sum
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
    from averaging.tensors import CODED_ELEMENTS_MIN, TensorSpec

_HOMES = {
    "averaging.allreduce.balance": (
        "Capacity",
        "planned_seconds",
    ),
    "averaging.allreduce.service": ("Used",),
    "averaging.averager": (
        "Averager",
        "PreparedRound",
        "open_averager",
    ),
    "averaging.config": ("AveragerConfig",),
    "averaging.errors": (
        "AveragingError",
        "MatchmakingFailed",
        "RoundFailed",
        "StateUnavailable",
        "UpdateSpent",
    ),
    "averaging.homomorphic": (
        "ExtraMissing",
        "HomomorphicSpec",
        "SumConfig",
        "SumFailed",
        "SumMember",
        "SumReport",
        "adder_untrusted",
        "draw_key",
        "open_sum_aggregator",
        "open_sum_member",
    ),
    "averaging.low_rank": (
        "LowRankAverager",
        "low_rank_query_count",
        "open_low_rank_averager",
    ),
    "averaging.matchmaking.plan": ("plan_spans",),
    "averaging.matchmaking.strangers": ("STRANGERS_VALIDATOR",),
    "averaging.report": (
        "MemberReport",
        "RoundReport",
    ),
    "averaging.round_id": ("RoundId",),
    "averaging.secure.averager": (
        "SecureAverager",
        "open_secure_averager",
    ),
    "averaging.secure.config": (
        "SecureConfig",
        "check_secure_options",
    ),
    "averaging.secure.service": (
        "SecureResult",
        "SecureSum",
        "open_secure_sum",
    ),
    "averaging.state": (
        "DonorConfig",
        "FetchConfig",
        "Manifest",
        "Snapshot",
        "StateDonor",
        "StateTable",
        "fetch_state",
        "open_state_donor",
    ),
    "averaging.tensors": (
        "CODED_ELEMENTS_MIN",
        "TensorSpec",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CODED_ELEMENTS_MIN",
    "STRANGERS_VALIDATOR",
    "Averager",
    "AveragerConfig",
    "AveragingError",
    "Capacity",
    "DonorConfig",
    "ExtraMissing",
    "FetchConfig",
    "HomomorphicSpec",
    "LowRankAverager",
    "Manifest",
    "MatchmakingFailed",
    "MemberReport",
    "PreparedRound",
    "RoundFailed",
    "RoundId",
    "RoundReport",
    "SecureAverager",
    "SecureConfig",
    "SecureResult",
    "SecureSum",
    "Snapshot",
    "StateDonor",
    "StateTable",
    "StateUnavailable",
    "SumConfig",
    "SumFailed",
    "SumMember",
    "SumReport",
    "TensorSpec",
    "UpdateSpent",
    "Used",
    "adder_untrusted",
    "check_secure_options",
    "draw_key",
    "fetch_state",
    "low_rank_query_count",
    "open_averager",
    "open_low_rank_averager",
    "open_secure_averager",
    "open_secure_sum",
    "open_state_donor",
    "open_sum_aggregator",
    "open_sum_member",
    "plan_spans",
    "planned_seconds",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module that it lives in, and keep it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
