"""The low-rank averager: gradients as factors that two rounds average, by PowerSGD.

    first round    the round's own id               mean of all P, the basis: whoever holds it ──┐
    second round   its number, and the digest of    mean of all Q, and of what has no factors ◀──┘
                   the first result as parent

So only those with the same bits of the basis meet in the second round, and all who succeed there
compute the same gradients. The round is over when the second is: until then who comes too late for
the first waits, and is told of the next round only when others have gone there.

    none ── first round succeeds ──▶ basis ── second succeeds ──▶ none: the round is over
                                      │ ▲
                        second fails  ▼ │ tried again, with the gradients of then
                                     kept ── nobody can have succeeded with it, or too long ago,
                                             or most others have another ──▶ none: a new basis

A basis is kept since a member may have succeeded with it out of sight: the second round knows the
groups that failed in it, and waits until that is ruled out, as any round does. It is given up where
no group was found for it: those who hold it may be too few.

The first round needs no residuals of its own and no agreement on who is in it: see `PowerSgd`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import trio

from averaging.allreduce.reduction import refuses_values
from averaging.allreduce.service import Used
from averaging.averager import Averager, open_averager
from averaging.codecs.factors import Factors
from averaging.codecs.power_sgd import PowerSgdConfig
from averaging.config import AveragerConfig
from averaging.errors import RoundFailed
from averaging.heavy import run_heavy
from averaging.one_step import OneStep
from averaging.report import RoundReport
from averaging.round_id import RoundId
from averaging.staging import Staging
from averaging.tensors import CODED_ELEMENTS_MIN, Array, Tensor, TensorSpec
from p2p import Dht, Node, PeerId

T = TypeVar("T")

# Products and orthonormal columns take so many times as long as reading the gradients.
_EFFORT: Final = 8
# Of a second round for which no time is left: it fails, and says so.
_LEFT_S_MIN: Final = 1e-3


@dataclass(frozen=True)
class _Basis:
    """What a first round gave."""

    round: RoundId
    report: RoundReport
    mean_F: Array

    @property
    def second(self) -> RoundId:
        """The second round on this basis."""
        return RoundId(self.round.number, self.report.digest)

    def members(self, expected: Collection[PeerId] | None) -> list[PeerId]:
        """Who holds it, as far as we know; of those that are still expected, if some are named."""
        lost = set(self.report.lost)
        return [
            peer
            for peer in self.report.members
            if peer not in lost and (expected is None or peer in expected)
        ]


class LowRankAverager:
    """Averages gradients with peers, as factors; opened by open_low_rank_averager().

    What the others lack of our gradients is added to those of the next step; `queries` are the same
    at all peers that took the same steps. Both change with results that are used.
    """

    def __init__(
        self,
        node: Node,
        spec: TensorSpec,
        factors: Factors,
        codec: PowerSgdConfig,
        rounds: tuple[Averager, Averager],
        patience_s: float,
    ) -> None:
        self.spec = spec
        self._node = node
        self._factors = factors
        self._codec = codec
        self._first, self._second = rounds
        self._first.settles = False
        self._patience_s = patience_s
        self._staging = Staging(spec)
        self._basis: _Basis | None = None
        self._one_step = OneStep()

    def round_wanted(self, round: RoundId) -> bool:
        """Whether another member already gathers for this round, or for its second half."""
        if self._first.round_wanted(round):
            return True
        basis = self._basis
        if basis is None or basis.round != round:
            return False
        return self._second.round_wanted(basis.second)

    @property
    def uplink_bytes_per_s(self) -> float | None:
        """How fast we can send, as our second rounds have shown, which are larger; or None."""
        return self._second.uplink_bytes_per_s

    @property
    def queries(self) -> Array:
        """What all peers begin the next step with: float32, 1-D; part of the state they share."""
        return self._factors.queries

    def take_over(self, queries: Array | None) -> None:
        """Go on from a state of the others: owe nothing, and begin with their queries.

        Args:
            queries: of the peer whose state it is; None: those of a run's beginning.

        Raises:
            ValueError: they are of other tensors, or not finite.
        """
        self._basis = None
        self._factors.take_over(queries)

    async def step(
        self,
        tensors: Mapping[str, Tensor],
        *,
        weight: float = 1.0,
        deadline_s: float = 30.0,
        round: RoundId,
        expected: Collection[PeerId] | None = None,
        used: Used | None = None,
    ) -> RoundReport:
        """Overwrite the gradients with what factors hold of their weighted mean, all or nothing.

        Args:
            tensors: as the spec says, writable; changed in place on success only, and only if the
                result is used.
            weight: this peer's share in the mean; 0 receives it without contributing.
            round: which round, on which result; the same at all who take part.
            used: says from the agreed members whether the result will be used; if not, everything
                stays as it was. All members must say the same. None: it always is.
            deadline_s, expected: as for Averager.step().

        Returns:
            What came of both rounds. Members are those of the second one, and in the gradients as
            far as they are in its result, of which `left_out` speaks; bytes and seconds are those
            of both.

        Raises:
            RoundFailed: no agreed result; the gradients are untouched, the report says why.
            ValueError: the gradients do not fit the spec, or a number is out of range.
        """
        self.spec.check(tensors, to_write=True)
        if not 0 < deadline_s < math.inf:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        until_s = trio.current_time() + deadline_s
        with self._one_step.running(), ExitStack() as ending:
            ending.callback(self._factors.core.abandon)
            factors_F = await self._heavy(self._begin, tensors, weight, round)
            before: RoundReport | None = None
            basis = self._kept_for(round)
            expected_there = expected
            if basis is None:
                before = await self._first.step(
                    {name: factors_F for name in self._first.spec.names},
                    weight=weight,
                    # Time is left to try the second round again, without who was lost in it.
                    deadline_s=deadline_s / 2,
                    round=round,
                    expected=expected,
                )
                self._basis = basis = _Basis(round, before, factors_F)
                expected_there = None
            there = basis.members(expected_there)
            return await self._hold_second(tensors, weight, until_s, basis, before, there, used)

    def _kept_for(self, round: RoundId) -> _Basis | None:
        """The basis to go on with, or None where there has to be another."""
        basis = self._basis
        if basis is not None and basis.round == round:
            failed_s = self._second.failed_since_s(basis.second)
            if failed_s is not None and trio.current_time() < failed_s + self._patience_s:
                return basis
        self._basis = None
        return None

    async def _hold_second(
        self,
        tensors: Mapping[str, Tensor],
        weight: float,
        until_s: float,
        basis: _Basis,
        before: RoundReport | None,
        expected: Collection[PeerId],
        used: Used | None,
    ) -> RoundReport:
        """The second round, and what follows from it."""
        try:
            values_F = await self._heavy(self._factors.second, basis.mean_F)
        except ValueError as exc:
            raise self._unusable(basis.report, exc) from exc
        try:
            report = await self._second.step(
                {name: values_F for name in self._second.spec.names},
                weight=weight,
                deadline_s=max(until_s - trio.current_time(), _LEFT_S_MIN),
                round=basis.second,
                expected=expected,
            )
        except RoundFailed as failure:
            report = self._both(basis, before, failure.report)
            if report.behind is not None and report.behind.number == basis.round.number:
                # The others are where we are, and have another basis.
                self._basis, report = None, replace(report, behind=None)
            reason = f"the second of its two rounds: {report.reason}"
            raise RoundFailed(replace(report, reason=reason)) from failure
        report = self._both(basis, before, report)
        if used is None or used(report.members):
            try:
                # Nothing in there waits for others, who have succeeded.
                with trio.CancelScope(shield=True):
                    dropped = await self._heavy(self._apply, tensors, values_F, report)
            except ValueError as exc:
                raise self._unusable(report, exc) from exc
            report = replace(report, dropped_elements=dropped)
        self._basis = None
        next_round = RoundId(basis.round.number + 1, report.digest)
        self._first.settle(basis.round, next_round, report.lost)
        return report

    def _unusable(self, report: RoundReport, complaint: ValueError) -> RoundFailed:
        """What members agreed on is no mean of finite numbers; all of them see the same."""
        self._basis = None
        failed = replace(report, succeeded=False, outcome="failed", digest=b"")
        return RoundFailed(replace(failed, reason=str(complaint)))

    # --- numeric work, perhaps in a thread ---

    def _begin(self, tensors: Mapping[str, Tensor], weight: float, round: RoundId) -> Array:
        """What the first round averages."""
        return self._factors.first(self._staging.flatten(tensors), weight, round.number)

    def _apply(self, tensors: Mapping[str, Tensor], mean_F: Array, report: RoundReport) -> int:
        """Overwrite the gradients, and keep what they lack of ours; returns what was dropped.

        Args:
            mean_F: of the second round.
        """
        flat = self._factors.finish(mean_F, report.left_out)
        self._staging.write_back(flat, tensors)
        if not refuses_values(report.members[self._node.peer_id].reason):
            return 0
        # To say it again, and more, would be of no use.
        self._factors.core.owe_nothing()
        return self._factors.core.factored_count

    async def _heavy(self, function: Callable[..., T], *args: Any) -> T:
        size_bytes = _EFFORT * self.spec.element_count * self.spec.dtype.itemsize
        return await run_heavy(self._node, size_bytes, function, *args)

    def _both(self, basis: _Basis, first: RoundReport | None, second: RoundReport) -> RoundReport:
        """What came of both rounds as one; None for a first one that was told of before."""
        if first is None:
            return replace(second, round=basis.round, codec=self._codec.name)
        missing = [peer for peer in first.lost if peer not in second.members]
        paths = Counter(first.bytes_by_path)
        paths.update(second.bytes_by_path)
        return replace(
            second,
            round=basis.round,
            codec=self._codec.name,
            # Two that go well are one attempt.
            attempts=first.attempts + second.attempts - 1,
            plans=first.plans + second.plans,
            lost=tuple(dict.fromkeys((*missing, *second.lost))),
            sent_bytes=first.sent_bytes + second.sent_bytes,
            received_bytes=first.received_bytes + second.received_bytes,
            bytes_by_path=dict(paths),
            seconds=first.seconds + second.seconds,
            matchmaking_seconds=first.matchmaking_seconds + second.matchmaking_seconds,
            transfer_seconds=first.transfer_seconds + second.transfer_seconds,
            reduction_seconds=first.reduction_seconds + second.reduction_seconds,
            repair_seconds=first.repair_seconds + second.repair_seconds,
            agreement_seconds=first.agreement_seconds + second.agreement_seconds,
        )


def low_rank_query_count(spec: TensorSpec, config: AveragerConfig) -> int:
    """How many numbers the queries of these gradients are; 0 where the codec has none.

    Raises:
        ValueError: PowerSGD does not go with these gradients; says why.
    """
    codec = config.power_sgd()
    return 0 if codec is None else len(_factors_of(spec, config, codec).queries)


def _factors_of(spec: TensorSpec, config: AveragerConfig, codec: PowerSgdConfig) -> Factors:
    """What computes, at the beginning of a run."""
    others = sorted({*spec.dtypes} - {"float32"})
    if others:
        raise ValueError(f"{codec.name} goes with float32 gradients, and not with {others[0]}")
    coded = spec.with_coded(config.codec_elements_min).coded_names
    factors = Factors(
        [
            # What has one dimension has no factors.
            shape if name in coded else (size,)
            for name, shape, size in zip(spec.names, spec.shapes, spec.sizes, strict=True)
        ],
        codec,
    )
    if not factors.core.factored_count:
        raise ValueError(
            f"no tensor is worth factors of {codec.name}: they need two dimensions, to be large "
            "enough (see codec_elements_min), and to shrink to a half at least"
        )
    return factors


@asynccontextmanager
async def open_low_rank_averager(
    node: Node,
    group_name: str,
    spec: TensorSpec,
    config: AveragerConfig,
    *,
    dht: Dht | None = None,
) -> AsyncIterator[LowRankAverager]:
    """Average gradients of this spec, as factors, with the peers that use the same group name.

    Args:
        config: its codec is PowerSGD.
        dht: where strangers are found; without it only expected peers and former members are.

    Raises:
        ValueError: PowerSGD does not go with these gradients; says why.
    """
    codec = config.power_sgd()
    if codec is None:
        raise ValueError(f"{config.codec} makes no factors: use open_averager()")
    factors = _factors_of(spec, config, codec)
    floats = replace(config, codec=None, codec_elements_min=CODED_ELEMENTS_MIN)
    # Whoever has another codec or other gradients is refused for the name.
    named = f"{codec.name} of {spec.hash.hex()}"
    specs = [
        TensorSpec((f"{half} of {named}",), ((count,),), ("float32",))
        for half, count in zip(("first", "second"), factors.core.element_counts, strict=True)
    ]
    async with (
        open_averager(node, group_name, specs[0], floats, dht=dht) as first,
        open_averager(node, f"{group_name}-second", specs[1], floats, dht=dht) as second,
    ):
        rounds = (first, second)
        yield LowRankAverager(node, spec, factors, codec, rounds, config.partition_patience_s)
