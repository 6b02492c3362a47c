"""The averager: step() finds a group, averages with it, and tries again without who was lost."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import trio

from averaging.allreduce.rates import RateMeter, told
from averaging.allreduce.result import RoundResult
from averaging.allreduce.service import Allreduce, Entered, OnSuccess, Used, open_allreduce
from averaging.attempts import Attempts
from averaging.codecs.coding import Coding
from averaging.codecs.codings import Codings
from averaging.config import AveragerConfig
from averaging.errors import MatchmakingFailed, RoundFailed
from averaging.heavy import run_heavy
from averaging.matchmaking import Group, Matchmaking, open_matchmaking
from averaging.one_step import OneStep
from averaging.report import RoundReport
from averaging.round_id import RoundId
from averaging.staging import Staging
from averaging.tensors import Array, Tensor, TensorSpec
from p2p import Dht, Held, Node, PeerId, open_service_nursery

logger = logging.getLogger(__name__)

# The most that a JOIN may carry; larger weights are a mistake in units.
_WEIGHT_MAX: Final = 1e18


@dataclass(frozen=True)
class _Previous:
    """The last failed group of a round, which the next one must name."""

    round: RoundId
    group_id: bytes
    promised: bool
    failed_at_s: float


@dataclass
class _Wish:
    """What a step asks for, and what came of it so far."""

    until_s: float
    weight_cap: float
    round: RoundId | None
    expected: Collection[PeerId] | None
    attempts: Attempts
    vector: int
    entered: Held
    """The group's streams: run() may be called in a narrower scope than prepare()."""


class Averager:
    """Averages tensors with peers; opened by open_averager()."""

    def __init__(
        self,
        node: Node,
        spec: TensorSpec,
        config: AveragerConfig,
        matchmaking: Matchmaking,
        allreduce: Allreduce,
        codings: Codings,
    ) -> None:
        self.spec = spec
        self.feedback = codings
        """What codecs lost and is owed; to be reset after a state download."""
        self.settles = True
        """Whether a result ends its round; if not, those who come for it wait until settle()."""
        self._node = node
        self._auxiliary = config.auxiliary
        self._matchmaking = matchmaking
        self._allreduce = allreduce
        self._round = RoundId(0)
        self._previous: _Previous | None = None
        self._one_step = OneStep()
        self._staging = Staging(spec)
        self._rates = RateMeter()

    @property
    def uplink_bytes_per_s(self) -> float | None:
        """How fast we can send, as our rounds have shown; None until they have."""
        return self._rates.up_bytes_per_s

    def round_wanted(self, round: RoundId) -> bool:
        """Whether another member already gathers for this round."""
        return self._matchmaking.round_wanted(round)

    def settle(self, round: RoundId, next_round: RoundId, lost: Collection[PeerId] = ()) -> None:
        """Say that a round is over: who still comes for it is told of the next one."""
        self._matchmaking.settle(round, next_round, lost=lost)

    def failed_since_s(self, round: RoundId) -> float | None:
        """Since when a group of ours has failed in this round, on trio's clock; None if none."""
        previous = self._previous
        return previous.failed_at_s if previous and previous.round == round else None

    async def step(
        self,
        tensors: Mapping[str, Tensor],
        *,
        weight: float = 1.0,
        deadline_s: float = 30.0,
        round: RoundId | None = None,
        expected: Collection[PeerId] | None = None,
        vector: int = 0,
        used: Used | None = None,
    ) -> RoundReport:
        """Overwrite the tensors with the weighted mean of the group's, all or nothing.

        Cancelled, it leaves them untouched; a cancellation that comes later than that is not heard
        before the report is returned.

        An auxiliary peer averages for the others: its tensors are neither read nor changed, and
        its weight is 0, whatever it says.

        Args:
            tensors: as the spec says, writable; changed in place on success only.
            weight: this peer's share in the mean; 0 receives it without contributing.
            deadline_s: the step ends by then, one way or the other.
            round: which round, on which result; None counts by itself and follows the others.
            expected: who should come: the group closes when all of them are there. None waits
                for strangers, found through the DHT, for a while.
            vector: which of several that are averaged in turn: what codecs lost is kept for each.
            used: says from the agreed members whether the result will be used; if not, all that
                codecs lost stays as it was. All members must say the same. None: it always is.

        Raises:
            RoundFailed: no agreed result; the tensors are untouched, the report says why.
            ValueError: the tensors do not fit the spec, or a number is out of range.
        """
        self._check(tensors)
        with self._one_step.running() as done:
            async with open_service_nursery() as nursery:
                wish = self._wish(weight, deadline_s, round, expected, vector, Held(nursery))
                done.append(await self._run(wish, tensors, wish.weight_cap, None, used))
        return done[0]

    @asynccontextmanager
    async def prepare(
        self,
        *,
        weight_cap: float = 1.0,
        deadline_s: float = 30.0,
        round: RoundId | None = None,
        expected: Collection[PeerId] | None = None,
        vector: int = 0,
    ) -> AsyncIterator[PreparedRound]:
        """Find the group and open its streams before the tensors are final.

        Leaving the block without run() cancels our part; the others go on without us.

        Args:
            weight_cap: the most that run() will declare.
            deadline_s, round, expected, vector: as for step(); the deadline covers run(), too.

        Raises:
            RoundFailed: no group was found.
            ValueError: a number is out of range.
        """
        with self._one_step.running():
            async with open_service_nursery() as nursery:
                wish = self._wish(weight_cap, deadline_s, round, expected, vector, Held(nursery))
                group = await self._find_group(wish)
                entered = await self._enter(wish, group)
                yield PreparedRound(self, wish, (group, entered))

    def _wish(
        self,
        weight_cap: float,
        deadline_s: float,
        round: RoundId | None,
        expected: Collection[PeerId] | None,
        vector: int,
        entered: Held,
    ) -> _Wish:
        if not 0 <= weight_cap <= _WEIGHT_MAX:
            raise ValueError(f"weight must be between 0 and {_WEIGHT_MAX:g}, not {weight_cap}")
        if not 0 < deadline_s < math.inf:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        # Raises for a number that is none.
        self.feedback.of(vector)
        now_s = trio.current_time()
        cap = 0.0 if self._auxiliary else float(weight_cap)
        return _Wish(now_s + deadline_s, cap, round, expected, Attempts(now_s), vector, entered)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        if not self._auxiliary:
            self.spec.check(tensors, to_write=True)

    async def _run(
        self,
        wish: _Wish,
        tensors: Mapping[str, Tensor],
        weight: float,
        prepared: tuple[Group, Entered] | None,
        used: Used | None,
    ) -> RoundReport:
        """Average with groups until one succeeds; then the tensors hold its result."""
        if self._auxiliary:
            return await self._attempt_until(wish, None, 0.0, prepared, None, used)
        flat = self.spec.view(tensors)
        if flat is None:
            size_bytes = self.spec.element_count * self.spec.dtype.itemsize
            flat = await run_heavy(self._node, size_bytes, self._staging.flatten, tensors)

        def write_back(vector: Array) -> None:
            self._staging.write_back(vector, tensors)

        return await self._attempt_until(wish, flat, weight, prepared, write_back, used)

    async def _attempt_until(
        self,
        wish: _Wish,
        flat: Array | None,
        weight: float,
        prepared: tuple[Group, Entered] | None,
        write_back: OnSuccess | None,
        used: Used | None,
    ) -> RoundReport:
        """Try groups until one succeeds, and its result is written back."""
        while True:
            if prepared is None:
                group = await self._find_group(wish)
                prepared = group, await self._enter(wish, group)
            group, entered = prepared
            prepared = None
            try:
                result = await entered.run(flat, weight, on_success=write_back, used=used)
            finally:
                # Nothing in there waits for others, and the next attempt needs it done.
                with trio.CancelScope(shield=True):
                    await wish.entered.leave_all()
            wish.attempts.add(result)
            self._measure(result)
            report = wish.attempts.report_of(group, result, trio.current_time())
            logger.info("round_ended group=%s %s", group.group_id[:4].hex(), report)
            if result.outcome == "success":
                self._previous = None
                self._round = RoundId(group.round.number + 1, result.digest)
                if self.settles:
                    self.settle(group.round, self._round, result.lost)
                return report
            self._previous = self._previous_of(group, result)
            # Who is undecided must not take part elsewhere: its vote may have committed. Nor need
            # who knows that the others agreed: it is behind.
            over = result.outcome == "undecided" or result.hopeless or bool(result.agreed)
            if over or trio.current_time() >= wish.until_s:
                raise RoundFailed(report)

    def _previous_of(self, group: Group, result: RoundResult) -> _Previous:
        """The failed group, since when no group of this round has succeeded here."""
        now_s, before = trio.current_time(), self._previous
        since_s = before.failed_at_s if before and before.round == group.round else now_s
        return _Previous(group.round, group.group_id, result.promised, since_s)

    def _measure(self, result: RoundResult) -> None:
        sent, received = sum(result.sent_bytes.values()), sum(result.received_bytes.values())
        if result.outcome == "success":
            self._rates.on_round(
                sent,
                received,
                result.sending_seconds,
                result.transfer_seconds,
                sending=result.sent,
                receiving=result.received,
            )

    async def _enter(self, wish: _Wish, group: Group) -> Entered:
        wish.attempts.count += 1
        entering = self._allreduce.entered(group, self.feedback.of(wish.vector), wish.until_s)
        return await wish.entered.enter(entering)

    async def _find_group(self, wish: _Wish) -> Group:
        wanted = self._round if wish.round is None else wish.round
        previous = self._previous if self._previous and self._previous.round == wanted else None
        attempts, started_s = wish.attempts, trio.current_time()
        try:
            return await self._matchmaking.find_group(
                wanted,
                role="aux" if self._auxiliary else None,
                weight_cap=wish.weight_cap,
                up_bytes_per_s=told(self._rates.up_bytes_per_s),
                down_bytes_per_s=told(self._rates.down_bytes_per_s),
                expected=wish.expected,
                lost=tuple(attempts.lost),
                previous=previous.group_id if previous else b"",
                previous_failed_at_s=previous.failed_at_s if previous else None,
                abandoned=previous.promised if previous else False,
                attempt=attempts.count,
                deadline_s=max(wish.until_s - started_s, 0.0),
                follow=wish.round is None,
                reference=b"" if self._auxiliary else self.feedback.of(wish.vector).reference,
            )
        except MatchmakingFailed as exc:
            now_s = trio.current_time()
            attempts.matchmaking_seconds += now_s - started_s
            started_s = now_s
            me, weight = self._node.peer_id, wish.weight_cap
            report = attempts.report_without_group(wanted, me, weight, exc, now_s)
            logger.info("round_ended group=none %s", report)
            raise RoundFailed(report) from exc
        finally:
            attempts.matchmaking_seconds += trio.current_time() - started_s


class PreparedRound:
    """A group whose streams are open and which waits for our tensors; see Averager.prepare()."""

    def __init__(self, averager: Averager, wish: _Wish, prepared: tuple[Group, Entered]) -> None:
        self._averager = averager
        self._wish = wish
        self._prepared: tuple[Group, Entered] | None = prepared
        self.members: tuple[PeerId, ...] = prepared[0].peer_ids
        """Of the group, in its order."""

    async def run(
        self,
        tensors: Mapping[str, Tensor],
        *,
        weight: float = 1.0,
        used: Used | None = None,
    ) -> RoundReport:
        """Average, once; as Averager.step().

        Raises:
            RoundFailed, ValueError: as step() does; ValueError also for a weight over the cap.
        """
        averager, wish, prepared = self._averager, self._wish, self._prepared
        if prepared is None:
            raise ValueError("a prepared round is run once")
        averager._check(tensors)
        if not 0 <= weight <= wish.weight_cap and not averager._auxiliary:
            raise ValueError(f"weight must be between 0 and {wish.weight_cap:g}, not {weight}")
        self._prepared = None
        return await averager._run(wish, tensors, float(weight), prepared, used)


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

    Raises:
        ValueError: no codec compresses tensors in one round as the config says.
    """
    config = config or AveragerConfig()
    if config.power_sgd() is not None:
        raise ValueError(f"{config.codec} takes two rounds: use open_low_rank_averager()")
    if config.wire_dtype is not None:
        spec = spec.with_wire(config.wire_dtype)
    codecs = config.codecs()
    if codecs is not None:
        spec = spec.with_coded(config.codec_elements_min)
    wire, coded_count = spec.wire, spec.coded_count
    # Now, since it may load PyTorch, for which a round has no time.
    codings = Codings(lambda: codecs.coding(wire, coded_count) if codecs else Coding.floats(wire))
    coding = codings.of(0)
    async with (
        open_matchmaking(
            node,
            group_name,
            spec.hash,
            replace(config.matchmaking(), chunk_elements_max=coding.chunk_elements_max),
            dht,
            element_count=spec.element_count,
            vector_bytes=coding.size_limit_bytes,
        ) as matchmaking,
        open_allreduce(
            node,
            group_name,
            config.allreduce(),
            on_group_shown=matchmaking.on_group_shown_untrusted,
        ) as allreduce,
    ):
        yield Averager(node, spec, config, matchmaking, allreduce, codings)
