"""Attempts: the groups that one step tried, and the report that comes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from averaging.allreduce.result import RoundResult
from averaging.errors import MatchmakingFailed
from averaging.matchmaking import Group
from averaging.report import MemberReport, RoundReport
from averaging.round_id import RoundId
from p2p import Path, PeerId


@dataclass
class Attempts:
    """What has been tried so far in one step."""

    started_s: float
    count: int = 0
    lost: dict[PeerId, None] = field(default_factory=dict)
    members: Mapping[PeerId, MemberReport] = field(default_factory=dict)
    """Of the last group."""
    matchmaking_seconds: float = 0.0
    transfer_seconds: float = 0.0
    reduction_seconds: float = 0.0
    repair_seconds: float = 0.0
    agreement_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    bytes_by_path: Counter[Path] = field(default_factory=Counter)

    def add(self, result: RoundResult) -> None:
        """Count one group's outcome."""
        self.lost.update(dict.fromkeys(result.lost))
        self.members = result.members
        self.transfer_seconds += result.transfer_seconds
        self.reduction_seconds += result.reduction_seconds
        self.repair_seconds += result.repair_seconds
        self.agreement_seconds += result.agreement_seconds
        self.sent_bytes += sum(result.sent_bytes.values())
        self.received_bytes += sum(result.received_bytes.values())
        self.bytes_by_path.update(result.sent_bytes)
        self.bytes_by_path.update(result.received_bytes)

    def report_of(self, group: Group, result: RoundResult, now_s: float) -> RoundReport:
        """What came of the step with its last group."""
        succeeded = result.outcome == "success"
        missed = RoundId(group.round.number + 1, result.agreed) if result.agreed else None
        return self._counted(
            now_s,
            RoundReport(
                group_id=group.group_id,
                round=group.round,
                members=result.members,
                digest=result.digest,
                succeeded=succeeded,
                outcome=result.outcome,
                reason=result.reason,
                behind=None if succeeded else missed,
                plans=result.plans,
                codec=result.codec,
                dropped_elements=result.dropped_elements,
                left_out=result.left_out,
            ),
        )

    def report_without_group(
        self, round: RoundId, me: PeerId, weight: float, failed: MatchmakingFailed, now_s: float
    ) -> RoundReport:
        """What came of a step whose last search found nobody."""
        return self._counted(
            now_s,
            RoundReport(
                group_id=b"",
                round=round,
                members=self.members or {me: MemberReport(fraction=0.0, weight=weight)},
                digest=b"",
                succeeded=False,
                outcome="failed",
                reason=failed.reason,
                behind=failed.behind,
                refusals=failed.refusals,
            ),
        )

    def _counted(self, now_s: float, report: RoundReport) -> RoundReport:
        return replace(
            report,
            attempts=max(self.count, 1),
            lost=tuple(self.lost),
            sent_bytes=self.sent_bytes,
            received_bytes=self.received_bytes,
            bytes_by_path=dict(self.bytes_by_path),
            seconds=now_s - self.started_s,
            matchmaking_seconds=self.matchmaking_seconds,
            transfer_seconds=self.transfer_seconds,
            reduction_seconds=self.reduction_seconds,
            repair_seconds=self.repair_seconds,
            agreement_seconds=self.agreement_seconds,
        )
