"""Session: trio's side of a SwarmOptimizer; everything it awaits, and nothing that knows of torch.

A session stands at a position: the round it holds next, which builds on the digest of the last.
Each committed round moves it on by one: a round of gradients that brought a global step, one whose
result was discarded since too little was delivered, or one that averaged the state itself.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from averaging import (
    MemberReport,
    RoundFailed,
    RoundId,
    RoundReport,
    Snapshot,
    TensorSpec,
    Used,
    open_state_donor,
)
from p2p import Dht, Node, PeerId, open_service_nursery, short
from training.advice import Advice, OnCaller, RoundResult
from training.config import SwarmConfig
from training.delivered import delivered_by
from training.drift_watch import DriftWatch
from training.errors import SpecDiffers
from training.model_state import Array
from training.progress import (
    BatchView,
    PeerRecord,
    Position,
    Role,
    Sketch,
    Tracker,
    open_tracker,
    step_norms,
)
from training.rounds import (
    AnyAverager,
    hold_round,
    open_rounds,
    shared_by,
    take_over,
    uplink_bytes_per_s,
)
from training.session_plan import SessionPlan
from training.state_averager import StateAverager

logger = logging.getLogger(__name__)

# A round trip and a hiccup, for peers whose micro-batches take no time at all.
_PATIENCE_S_MIN = 0.5
# For peers that have not computed anything yet: they may, or may still be loading their data.
_PATIENCE_UNKNOWN_S = 5.0
# As much as progress can tell; a peer that claims more is not worth believing.
_SAMPLES_MAX = 2**53


class Session:
    """One model's part in a run; its methods are called through the portal."""

    def __init__(
        self,
        node: Node,
        dht: Dht | None,
        plan: SessionPlan,
        config: SwarmConfig,
        on_caller: OnCaller,
        nursery: trio.Nursery,
    ) -> None:
        self.node = node
        self.plan = plan
        self.config = config
        self.tracker: Tracker
        self.averager: AnyAverager
        self._on_caller = on_caller
        self._written = plan.position
        self._copying = trio.Lock()
        self._moved = trio.Event()
        self._took_part = False
        self._rounds = 0
        self.drift = DriftWatch(plan.sketch, plan.rounding)
        self._state_averager = StateAverager(
            node, dht, f"{plan.run}/state", config.averager, nursery
        )

    @property
    def own(self) -> PeerRecord:
        """What we say of ourselves."""
        return self.tracker.own

    @property
    def target(self) -> int:
        """The global batch of the step at hand."""
        return self.own.position.target(self.plan.schedule)

    # --- the steps of a peer that is up to date ---

    async def introduce(self) -> None:
        """Tell the swarm that we are here, and hear who is.

        Raises:
            SpecDiffers: others train something else under this name.
        """
        await self.tracker.introduce()
        self.check_spec()

    async def view(self) -> BatchView:
        """The swarm at this moment."""
        return self.tracker.view()

    async def advance(self, samples: int, samples_per_s: float, period_s: float) -> Advice:
        """As advise(), but where the round is due, all who are expected came or are overdue."""
        advice = await self.advise(samples, samples_per_s, period_s)
        if advice is not Advice.ROUND:
            return advice
        if await self.gather(self.averager, self.config.accept_fraction * self.target):
            return Advice.ROUND
        self.tracker.report(replace(self.own, waits=False), target=self.target)
        return Advice.ACCUMULATE

    async def advise(self, samples: int, samples_per_s: float, period_s: float) -> Advice:
        """Our accumulated samples changed; what now? The others are told."""
        # Reports that have arrived while we computed are heard first.
        await trio.lowlevel.checkpoint()
        own = replace(
            self.own, samples=samples, samples_per_s=samples_per_s, period_s=period_s, waits=False
        )
        self.tracker.on_own(own)
        self.check_spec()
        view = self.tracker.view()
        ready = view.ahead is None and self.is_ready(view)
        # One message tells both: what we have, and that we wait.
        self.tracker.report(replace(own, waits=ready), target=self.target)
        if view.ahead is not None or self.drift.is_astray(self.tracker):
            return Advice.CATCH_UP
        return Advice.ROUND if ready else Advice.ACCUMULATE

    def is_ready(self, view: BatchView) -> bool:
        """Whether the round at hand is due: the batch is there, or somebody else says so."""
        enough = self.config.accept_fraction * self.target
        return (
            view.samples >= self.target
            or (view.somebody_waits and view.samples >= enough)
            or self.averager.round_wanted(self.own.position.round)
        )

    async def gather(self, averager: AnyAverager, samples_min: float) -> bool:
        """Wait until all who are expected wait as well, or are overdue.

        Peers join a round between two micro-batches, so each is given twice the time that its
        micro-batches take; who has not come by then, its samples leave the sum.

        Returns:
            Whether to begin: False when the samples of those who came are too few now.
        """
        started_s = trio.current_time()
        while not averager.round_wanted(self.own.position.round):
            view = self.tracker.view()
            if view.ahead is not None or view.samples < samples_min:
                return False
            if not view.computing:
                return True
            due_s = started_s + max(self._patience_s(period_s) for _, period_s in view.computing)
            if trio.current_time() >= due_s:
                late = [peer_id for peer_id, _ in view.computing]
                logger.info("peers_overdue peers=%s", ",".join(map(short, late)))
                self.tracker.on_absent(late)
                continue
            with trio.move_on_at(due_s):
                await self.tracker.wait_news()
        return True

    def _patience_s(self, period_s: float) -> float:
        wanted_s = 2 * period_s + _PATIENCE_S_MIN if period_s else _PATIENCE_UNKNOWN_S
        return min(wanted_s, self.config.patience_s_max)

    async def hold_round(self, gradients: Mapping[str, Array], samples: int) -> RoundResult:
        """Average gradients in the round at hand; an accepted result overwrites them.

        One that is discarded may overwrite them, too.

        Raises:
            RoundFailed: no result; the gradients are untouched.
        """
        position, target = self.own.position, self.target
        expected = self.tracker.view().expected
        enough = self.config.accept_fraction * target

        def accept(members: Mapping[PeerId, MemberReport]) -> bool:
            return sum(member.weight * member.fraction for member in members.values()) >= enough

        report = await self._round(self.averager, gradients, float(samples), expected, accept)
        delivered = sum(delivered_by(report).values())
        accepted = delivered >= enough
        if not accepted:
            logger.warning(
                "round_discarded round=%s delivered=%g of=%d", position.round, delivered, target
            )
        memory = position.batch_memory
        if accepted and self.plan.schedule.uses_norms:
            means = [gradients[name] for name in self.plan.spec.names]
            norms = await self.node.offload(step_norms, report, means)
            memory = self.plan.schedule.remember(memory, norms)
        return RoundResult(
            report,
            accepted,
            Position(
                RoundId(position.round.number + 1, report.digest),
                position.step + accepted,
                min(position.samples + round(delivered) * accepted, _SAMPLES_MAX),
                memory,
            ),
            shared_by(self.averager) if accepted else {},
        )

    async def equalize(self, state: Mapping[str, Array]) -> RoundResult:
        """Average the state itself, each peer counting the same; it is overwritten.

        Raises:
            RoundFailed: no result; the state is untouched.
        """
        position = self.own.position
        averager = await self._state_averager.averager(TensorSpec.of(state))
        self.tracker.report(replace(self.own, waits=True), target=self.target)
        await self.gather(averager, 0)
        view = self.tracker.view()
        holders = {peer.peer_id for peer in view.peers if peer.holds_state}
        expected = tuple(peer_id for peer_id in view.expected if peer_id in holders)
        report = await self._round(averager, state, 1.0, expected)
        moved = replace(position, round=RoundId(position.round.number + 1, report.digest))
        return RoundResult(report, True, moved)

    async def commit(
        self, result: RoundResult, samples: int, sketch: Sketch = (), *, equalized: bool = False
    ) -> None:
        """The result has been applied; `samples` are left in the accumulators.

        Args:
            sketch: of the parameters now.
            equalized: all who took part hold the same bits now.
        """
        if equalized:
            self.drift.on_equal(sketch)
        self.on_committed(result, holds_state=True, samples=samples, sketch=sketch)
        self.on_state_written()

    async def settle(
        self,
        position: Position,
        past: Sequence[RoundId] = (),
        sketch: Sketch = (),
        shared: Mapping[str, Array] | None = None,
    ) -> None:
        """Our state was replaced by one of this position, with parameters of this sketch.

        Args:
            shared: what all peers hold beside the model there; None and empty: nothing yet.
        """
        self.drift.on_equal(sketch)
        own = replace(
            self.own, position=position, samples=0, holds_state=True, waits=False, sketch=sketch
        )
        self.tracker.on_moved(own, past)
        take_over(self.averager, shared or {})
        self.on_state_written()

    # --- shared with following and with rounds in the background ---

    def on_committed(
        self, result: RoundResult, *, holds_state: bool, samples: int = 0, sketch: Sketch = ()
    ) -> None:
        """A round of ours led on: remember who delivered, tell where we are."""
        self._took_part |= len(result.report.members) > 1
        lost = set(result.report.lost)
        delivered = {
            peer_id: weight
            for peer_id, weight in delivered_by(result.report).items()
            if peer_id not in lost
        }
        own = replace(
            self.own,
            position=result.position,
            samples=samples,
            holds_state=holds_state,
            # Who has no state yet has nothing to compute, and comes to each round at once.
            waits=not holds_state,
            sketch=sketch,
        )
        self.tracker.on_round(delivered, own)

    def check_spec(self) -> None:
        """Raise SpecDiffers when it is us who are wrong here.

        Who has been in a round with others is right. Before that the many are right, then those
        with more samples behind them, then those with the smaller hash: so one side leaves.
        """
        view = self.tracker.view()
        if self._took_part or not view.strangers:
            return
        own = self.own
        best = max(record.position.samples for _, record in view.strangers)
        peer_id, stranger = view.strangers[0]
        theirs = (len(view.strangers), best, -int.from_bytes(stranger.spec_hash))
        ours = (len(view.peers), own.position.samples, -int.from_bytes(own.spec_hash))
        if theirs > ours:
            raise SpecDiffers(self.plan.run, peer_id, theirs=stranger.spec_hash, ours=own.spec_hash)

    async def _round(
        self,
        averager: AnyAverager,
        tensors: Mapping[str, Array],
        weight: float,
        expected: tuple[PeerId, ...],
        used: Used | None = None,
    ) -> RoundReport:
        self._rounds += 1
        try:
            report = await hold_round(
                averager,
                tensors,
                weight=weight,
                deadline_s=self.config.round_deadline_s,
                round=self.own.position.round,
                expected=expected,
                vector=self.own.position.step % self.plan.vectors,
                used=used,
            )
        except RoundFailed as failure:
            self.tracker.on_absent(self._missing(expected, failure.report))
            raise
        finally:
            self._rounds -= 1
        self.tracker.on_absent(self._missing(expected, report))
        return report

    def _missing(self, expected: Sequence[PeerId], report: RoundReport) -> tuple[PeerId, ...]:
        """Who was expected and did not come, or was lost on the way."""
        absent = set(report.lost)
        if report.group_id:
            absent |= set(expected) - report.members.keys()
        return tuple(sorted(absent - {self.node.peer_id}))

    def on_state_written(self) -> None:
        """The caller's state is that of our position; snapshots of it can be had."""
        self._written = self.own.position
        self._moved.set()
        self._moved = trio.Event()

    # --- the state ---

    def uplink_in_use(self) -> float | None:
        """What our uplink carries in bytes per second, while a round of ours needs it."""
        return uplink_bytes_per_s(self.averager) if self._rounds else None

    async def snapshot(self, minimum_version: int) -> Snapshot:
        """A snapshot for a newcomer, copied by the caller's thread when it next has a moment."""
        while True:
            if self.own.holds_state and self._written.round.number >= minimum_version:
                async with self._copying:
                    return await self._on_caller(self.plan.take_snapshot)
            await self._moved.wait()


@asynccontextmanager
async def open_session(
    node: Node, dht: Dht | None, plan: SessionPlan, config: SwarmConfig, on_caller: OnCaller
) -> AsyncIterator[Session]:
    """Everything that one model needs to train in a run, while the block lasts."""
    role: Role = "client" if node.client_mode else "node"
    spec_hash = plan.hash_with(config.averager)
    own = PeerRecord(position=plan.position, spec_hash=spec_hash, role=role, sketch=plan.sketch)
    async with open_service_nursery() as nursery:
        session = Session(node, dht, plan, config, on_caller, nursery)
        async with (
            open_rounds(node, dht, plan, config) as session.averager,
            open_tracker(node, plan.run, own, dht=dht, config=config.progress) as session.tracker,
            open_state_donor(
                node,
                plan.run,
                source=session.snapshot,
                config=config.donor,
                uplink=session.uplink_in_use,
            ),
        ):
            yield session
