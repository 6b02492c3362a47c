"""The averager: step() finds a group, averages with it, and tries again without who was lost."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import trio

from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.result import RoundResult
from averaging.allreduce.service import Allreduce, open_allreduce
from averaging.errors import MatchmakingFailed, RoundFailed
from averaging.heavy import run_heavy
from averaging.matchmaking import Group, Matchmaking, MatchmakingConfig, open_matchmaking
from averaging.report import MemberReport, RoundReport
from averaging.round_id import RoundId
from averaging.tensors import FLOAT_DTYPES, Array, TensorSpec
from p2p import Dht, Node, Path, PeerId

logger = logging.getLogger(__name__)

# The most that a JOIN may carry; larger weights are a mistake in units.
_WEIGHT_MAX: Final = 1e18


@dataclass(frozen=True, kw_only=True)
class AveragerConfig:
    """How peers find each other and how patient they are."""

    wire_dtype: str | None = None
    """float16, float32 or float64; None sends the vector's own. Members must agree."""
    group_size_max: int = 64
    """A group of this size closes at once."""
    group_size_min: int = 1
    """A smaller group does not start, and fewer votes commit nothing. With more than half of all
    peers, set alike at each, a round has one result even when the network is parted."""
    join_window_s: float = 5.0
    """The longest wait for strangers, and for a better-ranked peer that is not yet looking."""
    silence_s: float = 2.5
    """A member from which nothing came for so long is lost."""
    linger_s: float = 10.0
    """How long a result is kept to serve members that lack a piece of it."""
    partition_patience_s: float = 60.0
    """How long a group waits whose failed predecessor may have succeeded out of sight."""

    def __post_init__(self) -> None:
        if self.wire_dtype is not None and self.wire_dtype not in FLOAT_DTYPES:
            raise ValueError(f"wire_dtype must be one of {FLOAT_DTYPES} or None")
        # The parts check their own numbers.
        self.matchmaking("float32")
        self.allreduce()

    def matchmaking(self, wire_dtype: str) -> MatchmakingConfig:
        """The part for finding groups."""
        return MatchmakingConfig(
            wire_dtype=wire_dtype,
            group_size_max=self.group_size_max,
            group_size_min=self.group_size_min,
            join_window_s=self.join_window_s,
            join_window_s_min=min(self.join_window_s, MatchmakingConfig.join_window_s_min),
            partition_patience_s=self.partition_patience_s,
        )

    def allreduce(self) -> AllreduceConfig:
        """The part for averaging in a group."""
        return AllreduceConfig(
            silence_s=self.silence_s,
            ping_s=min(AllreduceConfig.ping_s, self.silence_s / 4),
            linger_s=self.linger_s,
            votes_min=self.group_size_min,
        )


@dataclass
class _Attempts:
    """What has been tried so far in one step."""

    started_s: float
    count: int = 0
    lost: dict[PeerId, None] = field(default_factory=dict)
    matchmaking_seconds: float = 0.0
    transfer_seconds: float = 0.0
    agreement_seconds: float = 0.0
    reduction_seconds: float = 0.0
    repair_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    bytes_by_path: Counter[Path] = field(default_factory=Counter)

    def add(self, result: RoundResult) -> None:
        """Count one group's outcome."""
        self.lost.update(dict.fromkeys(result.lost))
        self.transfer_seconds += result.transfer_seconds
        self.agreement_seconds += result.agreement_seconds
        self.reduction_seconds += result.reduction_seconds
        self.repair_seconds += result.repair_seconds
        self.bytes_by_path.update(result.sent_bytes)
        self.bytes_by_path.update(result.received_bytes)
        self.sent_bytes += sum(result.sent_bytes.values())
        self.received_bytes += sum(result.received_bytes.values())


@dataclass(frozen=True)
class _Previous:
    """The last failed group of a round, which the next one must name."""

    round: RoundId
    group_id: bytes
    promised: bool


class Averager:
    """Averages tensors with peers; opened by open_averager()."""

    def __init__(
        self, node: Node, spec: TensorSpec, matchmaking: Matchmaking, allreduce: Allreduce
    ) -> None:
        self.spec = spec
        self._node = node
        self._matchmaking = matchmaking
        self._allreduce = allreduce
        self._round = RoundId(0)
        self._previous: _Previous | None = None
        self._stepping = False
        # Kept from step to step: fresh memory of this size costs more than the copying.
        self._flat = np.empty(spec.element_count, spec.dtype)

    def round_wanted(self, round: RoundId) -> bool:
        """Whether another member already gathers for this round."""
        return self._matchmaking.round_wanted(round)

    async def step(
        self,
        tensors: Mapping[str, Array],
        *,
        weight: float = 1.0,
        deadline_s: float = 30.0,
        round: RoundId | None = None,
        expected: Collection[PeerId] | None = None,
    ) -> RoundReport:
        """Overwrite the tensors with the weighted mean of the group's, all or nothing.

        Args:
            tensors: as the spec says, writable; changed in place on success only.
            weight: this peer's share in the mean; 0 receives it without contributing.
            deadline_s: the step ends by then, one way or the other.
            round: which round, on which result; None counts by itself and follows the others.
            expected: who should come: the group closes when all of them are there. None waits
                for strangers, found through the DHT, for a while.

        Raises:
            RoundFailed: no agreed result; the tensors are untouched, the report says why.
            ValueError: the tensors do not fit the spec, or a number is out of range.
        """
        self.spec.check(tensors, to_write=True)
        if not 0 <= weight <= _WEIGHT_MAX:
            raise ValueError(f"weight must be between 0 and {_WEIGHT_MAX:g}, not {weight}")
        if not 0 < deadline_s < math.inf:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        if self._stepping:
            raise ValueError("one step at a time: the last one has not ended")
        self._stepping = True
        try:
            until_s = trio.current_time() + deadline_s
            await self._heavy(self.spec.flatten, tensors, self._flat)
            report = await self._attempt_until(until_s, float(weight), round, expected)
            # Writing cannot be cancelled once it has begun, and nothing waits after it.
            await self._heavy(self.spec.write_back, self._flat, tensors)
        finally:
            self._stepping = False
        return report

    async def _heavy(self, function: Callable[..., object], *args: object) -> None:
        await run_heavy(self._node, self._flat.nbytes, function, *args)

    async def _attempt_until(
        self,
        until_s: float,
        weight: float,
        round: RoundId | None,
        expected: Collection[PeerId] | None,
    ) -> RoundReport:
        """Try groups until one succeeds: then the flat vector holds its result."""
        attempts = _Attempts(trio.current_time())
        while True:
            group = await self._find_group(attempts, until_s, weight, round, expected)
            attempts.count += 1
            result = await self._allreduce.run(group, self._flat, weight, until_s, out=self._flat)
            attempts.add(result)
            report = self._report(attempts, group, result)
            logger.info("round_ended group=%s %s", group.group_id[:4].hex(), report)
            if result.outcome == "success":
                self._previous = None
                self._round = RoundId(group.round.number + 1, result.digest)
                self._matchmaking.settle(group.round, self._round)
                return report
            self._previous = _Previous(group.round, group.group_id, result.promised)
            # Who is undecided must not take part elsewhere: its vote may have committed.
            hopeless = result.outcome == "undecided" or (result.hopeless and not result.lost)
            if hopeless or trio.current_time() >= until_s:
                raise RoundFailed(report)

    async def _find_group(
        self,
        attempts: _Attempts,
        until_s: float,
        weight: float,
        round: RoundId | None,
        expected: Collection[PeerId] | None,
    ) -> Group:
        wanted = self._round if round is None else round
        previous = self._previous if self._previous and self._previous.round == wanted else None
        started_s = trio.current_time()
        try:
            return await self._matchmaking.find_group(
                wanted,
                weight_cap=weight,
                expected=expected,
                lost=tuple(attempts.lost),
                previous=previous.group_id if previous else b"",
                abandoned=previous.promised if previous else False,
                attempt=attempts.count,
                deadline_s=max(until_s - started_s, 0.0),
                follow=round is None,
            )
        except MatchmakingFailed as exc:
            attempts.matchmaking_seconds += trio.current_time() - started_s
            started_s = trio.current_time()
            report = self._report_without_group(attempts, wanted, weight, exc)
            logger.info("round_ended group=none %s", report)
            raise RoundFailed(report) from exc
        finally:
            attempts.matchmaking_seconds += trio.current_time() - started_s

    def _report(self, attempts: _Attempts, group: Group, result: RoundResult) -> RoundReport:
        return self._timed(
            attempts,
            RoundReport(
                group_id=group.group_id,
                round=group.round,
                members=result.members,
                digest=result.digest,
                succeeded=result.outcome == "success",
                outcome=result.outcome,
                reason=result.reason,
                plans=result.plans,
            ),
        )

    def _report_without_group(
        self, attempts: _Attempts, round: RoundId, weight: float, failed: MatchmakingFailed
    ) -> RoundReport:
        return self._timed(
            attempts,
            RoundReport(
                group_id=b"",
                round=round,
                members={self._node.peer_id: MemberReport(fraction=0.0, weight=weight)},
                digest=b"",
                succeeded=False,
                outcome="failed",
                reason=failed.reason,
                behind=failed.behind,
                refusals=failed.refusals,
            ),
        )

    def _timed(self, attempts: _Attempts, report: RoundReport) -> RoundReport:
        return replace(
            report,
            attempts=max(attempts.count, 1),
            lost=tuple(attempts.lost),
            sent_bytes=attempts.sent_bytes,
            received_bytes=attempts.received_bytes,
            bytes_by_path=dict(attempts.bytes_by_path),
            reduction_seconds=attempts.reduction_seconds,
            repair_seconds=attempts.repair_seconds,
            seconds=trio.current_time() - attempts.started_s,
            matchmaking_seconds=attempts.matchmaking_seconds,
            transfer_seconds=attempts.transfer_seconds,
            agreement_seconds=attempts.agreement_seconds,
        )


@asynccontextmanager
async def open_averager(
    node: Node,
    group_name: str,
    spec: TensorSpec,
    config: AveragerConfig | None = None,
    *,
    dht: Dht | None = None,
) -> AsyncIterator[Averager]:
    """Average tensors of this spec with the peers that use the same group name.

    Args:
        dht: where strangers are found; without it only expected peers and former members are.
    """
    config = config or AveragerConfig()
    wire_dtype = config.wire_dtype or spec.dtype.name
    async with (
        open_matchmaking(
            node,
            group_name,
            spec.hash,
            config.matchmaking(wire_dtype),
            dht,
            element_count=spec.element_count,
        ) as matchmaking,
        open_allreduce(
            node,
            group_name,
            config.allreduce(),
            on_group_shown=matchmaking.on_group_shown_untrusted,
        ) as allreduce,
    ):
        yield Averager(node, spec, matchmaking, allreduce)
