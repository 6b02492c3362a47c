"""The secure averager: matchmaking's groups, and a secure sum in each instead of an all-reduce."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from averaging.errors import MatchmakingFailed, RoundFailed, UpdateSpent
from averaging.heavy import run_heavy
from averaging.matchmaking import Group, Matchmaking, open_matchmaking
from averaging.one_step import OneStep
from averaging.report import MemberReport, RoundReport
from averaging.round_id import RoundId
from averaging.secure.config import SecureConfig
from averaging.secure.contributors import Contributors
from averaging.secure.service import SecureResult, SecureSum, open_secure_sum
from averaging.staging import Staging
from averaging.tensors import Tensor, TensorSpec
from p2p import Dht, Node, Path, PeerId

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Previous:
    """The last failed group of a round, which the next one must name."""

    round: RoundId
    group_id: bytes
    promised: bool
    failed_at_s: float


@dataclass
class _Attempts:
    """What has been tried so far in one step."""

    began_s: float
    count: int = 0
    lost: dict[PeerId, None] = field(default_factory=dict)
    matchmaking_seconds: float = 0.0
    transfer_seconds: float = 0.0
    sent_bytes: Counter[Path] = field(default_factory=Counter)
    received_bytes: Counter[Path] = field(default_factory=Counter)

    def add(self, result: SecureResult) -> None:
        """Count one group's outcome."""
        self.lost.update(dict.fromkeys(result.lost))
        self.transfer_seconds += result.seconds
        self.sent_bytes.update(result.sent_bytes)
        self.received_bytes.update(result.received_bytes)


class SecureAverager:
    """Averages tensors with peers, none of whom learns another's; opened by open_secure_averager().

    Attributes:
        weight_sum: of those in the last successful round.
        clipped: how many values of ours were beyond value_max in the last round.
    """

    def __init__(
        self,
        node: Node,
        spec: TensorSpec,
        config: SecureConfig,
        matchmaking: Matchmaking,
        secure: SecureSum,
    ) -> None:
        self.spec = spec
        self._contributors_min = config.contributors_min
        self.weight_sum = 0.0
        self.clipped = 0
        self._node = node
        self._matchmaking = matchmaking
        self._secure = secure
        self._staging = Staging(spec)
        self._round = RoundId(0)
        self._previous: _Previous | None = None
        self._one_step = OneStep()

    def round_wanted(self, round: RoundId) -> bool:
        """Whether another member already gathers for this round."""
        return self._matchmaking.round_wanted(round)

    async def step(
        self,
        tensors: Mapping[str, Tensor],
        *,
        weight: float = 1.0,
        deadline_s: float = 30.0,
        round: RoundId | None = None,
        expected: Collection[PeerId] | None = None,
    ) -> RoundReport:
        """Overwrite the tensors with the weighted mean of the group's, all or nothing.

        Args:
            tensors: as the spec says, writable; changed in place on success only. Noise for
                differential privacy is in them already.
            weight: this peer's share in the mean, up to the config's weight_max; 0 receives it
                without contributing, which all members are told.
            deadline_s, round, expected: as for Averager.step().

        Raises:
            RoundFailed: no agreed result; the tensors are untouched. If the report says `spent`,
                drop them or put new noise on them: the same values are refused from now on.
            UpdateSpent: these very values were offered before.
            ValueError: the tensors do not fit the spec, or a number is out of range.
        """
        self.spec.check(tensors, to_write=True)
        self._secure.check_weight(weight)
        if not 0 < deadline_s < math.inf:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        with self._one_step.running():
            return await self._step(tensors, weight, deadline_s, round, expected)

    async def _step(
        self,
        tensors: Mapping[str, Tensor],
        weight: float,
        deadline_s: float,
        round: RoundId | None,
        expected: Collection[PeerId] | None,
    ) -> RoundReport:
        attempts = _Attempts(trio.current_time())
        until_s = attempts.began_s + deadline_s
        flat = self.spec.view(tensors)
        if flat is None:
            size_bytes = self.spec.element_count * self.spec.dtype.itemsize
            flat = await run_heavy(self._node, size_bytes, self._staging.flatten, tensors)
        await self._secure.digest_untold(flat, weight)
        failed: RoundReport | None = None
        while True:
            group = await self._find_group(attempts, weight, until_s, round, expected, failed)
            complaint = Contributors.of(group, self._contributors_min).complaint(
                range(len(group.members))
            )
            if complaint is not None:
                # All members see the same JOINs, so nobody begins.
                now_s = trio.current_time()
                self._previous = _Previous(group.round, group.group_id, True, now_s)
                attempts.count += 1
                spent = failed is not None and failed.spent
                raise RoundFailed(_unbegun(attempts, group, complaint, now_s, spent=spent))
            try:
                result = await self._secure.run(group, flat, weight, until_s)
            except UpdateSpent as exc:
                # This group does not show that too few signed in the last one.
                if failed is None:
                    raise
                raise RoundFailed(failed) from exc
            attempts.count += 1
            attempts.add(result)
            self.clipped = result.clipped
            report = _report_of(attempts, group, result, trio.current_time())
            logger.info("round_ended group=%s %s", group.group_id[:4].hex(), report)
            if result.outcome == "success":
                mean = result.mean
                await run_heavy(self._node, mean.nbytes, self._staging.write_back, mean, tensors)
                self.weight_sum = result.weight_sum
                self._previous = None
                self._round = RoundId(group.round.number + 1, result.digest)
                self._matchmaking.settle(group.round, self._round, lost=result.lost)
                return report
            now_s = trio.current_time()
            self._previous = _Previous(group.round, group.group_id, result.promised, now_s)
            if not result.promised or result.left_out or now_s >= until_s:
                raise RoundFailed(report)
            failed = report

    async def _find_group(
        self,
        attempts: _Attempts,
        weight: float,
        until_s: float,
        round: RoundId | None,
        expected: Collection[PeerId] | None,
        failed: RoundReport | None,
    ) -> Group:
        wanted = self._round if round is None else round
        previous = self._previous if self._previous and self._previous.round == wanted else None
        began_s = trio.current_time()
        try:
            return await self._matchmaking.find_group(
                wanted,
                # Whether it brings a vector it must tell, and how much that weighs not.
                weight_cap=float(weight > 0),
                expected=expected,
                lost=tuple(attempts.lost),
                previous=previous.group_id if previous else b"",
                previous_failed_at_s=previous.failed_at_s if previous else None,
                abandoned=previous.promised if previous else False,
                attempt=attempts.count,
                deadline_s=max(until_s - began_s, 0.0),
                follow=round is None,
            )
        except MatchmakingFailed as exc:
            me = MemberReport(fraction=0.0, weight=weight)
            report = RoundReport(
                group_id=b"",
                round=wanted,
                members={self._node.peer_id: me},
                digest=b"",
                succeeded=False,
                outcome="failed",
                reason=exc.reason,
                behind=exc.behind,
                refusals=exc.refusals,
                lost=tuple(attempts.lost),
                attempts=max(attempts.count, 1),
                secure=True,
                spent=failed is not None and failed.spent,
                seconds=trio.current_time() - attempts.began_s,
            )
            raise RoundFailed(report) from exc
        finally:
            attempts.matchmaking_seconds += trio.current_time() - began_s


def _report_of(
    attempts: _Attempts, group: Group, result: SecureResult, now_s: float
) -> RoundReport:
    return RoundReport(
        group_id=group.group_id,
        round=group.round,
        members=result.members,
        digest=result.digest,
        succeeded=result.outcome == "success",
        outcome=result.outcome,
        reason=result.reason,
        attempts=attempts.count,
        plans=result.plans,
        lost=tuple(attempts.lost),
        sent_bytes=sum(attempts.sent_bytes.values()),
        received_bytes=sum(attempts.received_bytes.values()),
        bytes_by_path=dict(attempts.sent_bytes + attempts.received_bytes),
        seconds=now_s - attempts.began_s,
        matchmaking_seconds=attempts.matchmaking_seconds,
        transfer_seconds=attempts.transfer_seconds,
        secure=True,
        weight_sum=result.weight_sum,
        spent=result.spent,
    )


def _unbegun(
    attempts: _Attempts, group: Group, reason: str, now_s: float, *, spent: bool
) -> RoundReport:
    """Of a group that is none for a secure sum."""
    return RoundReport(
        group_id=group.group_id,
        round=group.round,
        members={
            join.peer_id: MemberReport(fraction=0.0, weight=math.nan if join.weight_cap else 0.0)
            for join in group.members
        },
        digest=b"",
        succeeded=False,
        outcome="failed",
        reason=reason,
        attempts=attempts.count,
        lost=tuple(attempts.lost),
        seconds=now_s - attempts.began_s,
        matchmaking_seconds=attempts.matchmaking_seconds,
        secure=True,
        spent=spent,
    )


@asynccontextmanager
async def open_secure_averager(
    node: Node,
    group_name: str,
    spec: TensorSpec,
    config: SecureConfig,
    *,
    dht: Dht | None = None,
) -> AsyncIterator[SecureAverager]:
    """Average tensors of this spec with peers of the same group name, each hidden in the sum.

    Args:
        dht: where strangers are found; without it only expected peers and former members are.
    """
    async with (
        open_matchmaking(
            node,
            group_name,
            spec.hash,
            config.matchmaking(),
            dht,
            # The weight is one more element, and travels like the others.
            element_count=spec.element_count + 1,
            vector_bytes=(spec.element_count + 1) * config.bits // 8,
        ) as matchmaking,
        open_secure_sum(node, group_name, config) as secure,
    ):
        yield SecureAverager(node, spec, config, matchmaking, secure)
