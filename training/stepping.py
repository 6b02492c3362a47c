"""Stepper: from accumulated gradients to global steps, on the thread that trains.

It asks the session what is due and does it: hold a round and step, catch up, or go on computing.
With delayed updates the round is held in the background, and its step is taken with the next one:

    nothing under way ── batch full: begin ──▶ under way ── ended ──▶ unapplied
           ▲                                      │                      │ batch full: apply,
           └──── no step: gradients taken back ───┘        under way ◀───┘ begin the next
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from averaging import RoundFailed, RoundId, RoundReport
from training.advice import Advice, RoundResult
from training.delayed import BackgroundRound, BackgroundRounds
from training.errors import SwarmStuck
from training.follow import CaughtUp, catch_up
from training.model_state import Array
from training.progress import Position, Sketch, SpeedMeter
from training.replica import Replica
from training.session import Session
from training.step_report import StepReport

logger = logging.getLogger(__name__)


class Stepper:
    """One model's steps; only the thread that trains may use it.

    Args:
        cross: calls an async function on trio's thread and waits for it.
        background: holds rounds while the caller computes; None for rounds that are waited for.
        failures_max: so many rounds may fail one after another.
    """

    def __init__(
        self,
        replica: Replica,
        session: Session,
        cross: Callable[..., Any],
        *,
        background: BackgroundRounds | None,
        failures_max: int,
    ) -> None:
        self._replica = replica
        self._gradients = replica.gradients
        self._session = session
        self._cross = cross
        self._failures_max = failures_max
        self._background = background
        self._under_way: BackgroundRound | None = None
        self._unapplied: BackgroundRound | None = None
        self._failures = 0
        self._speed, self._pace = SpeedMeter(), SpeedMeter()
        self._waited_s = 0.0
        self._skips = False
        self.skipped_count = 0
        """Micro-batches that were left out."""

    def step(self, samples: int, computed_s: float) -> StepReport:
        """As SwarmOptimizer.step(), of a peer that is with the swarm."""
        self._waited_s = 0.0
        self._skips = not self._gradients.add(samples)
        if self._skips:
            self.skipped_count += 1
            logger.warning("micro_batch_skipped count=%d cause=non-finite", self.skipped_count)
        else:
            self._speed.on_done(samples, computed_s)
        self._pace.on_done(1, computed_s)
        return self._advance() if self._background is None else self._advance_delayed()

    def sit_out(self) -> StepReport:
        """As SwarmOptimizer.sit_out(), of a peer that is with the swarm."""
        self._waited_s = 0.0
        self._skips = False
        return self._advance() if self._background is None else self._advance_delayed()

    def synchronize(self) -> bool:
        """As SwarmOptimizer.synchronize()."""
        caught_up = self._finish()
        advice = self._ask()
        return caught_up or (advice is Advice.CATCH_UP and self._catch_up())

    def reaverage(self, *, caught_up: bool) -> RoundReport:
        """As SwarmOptimizer.reaverage(), after synchronize() said whether it caught up."""
        replica = self._replica
        if caught_up and replica.equalized:
            return _downloaded_report(replica.position.round)
        state = replica.state.float_arrays()
        try:
            result = self._call(self._session.equalize, state)
        except RoundFailed as failure:
            behind = failure.report.behind
            if behind is not None and self._catch_up(behind) and replica.equalized:
                return _downloaded_report(replica.position.round)
            raise
        replica.state.load_floats(state)
        replica.move(result.position, equalized=True)
        self._commit(result, self._gradients.samples, equalized=True)
        report: RoundReport = result.report
        return report

    def try_reaverage(self) -> bool:
        """As reaverage(), but a failure is logged, and the next step taken without."""
        try:
            self.reaverage(caught_up=False)
        except RoundFailed as failure:
            logger.warning("reaveraging_failed %s", failure.report)
            return False
        return True

    def restart(self, position: Position, shared: Mapping[str, Array]) -> None:
        """The state was replaced by one of this position; a round under way is given up.

        Args:
            shared: what all peers hold beside the model there.
        """
        if self._background is not None:
            self._call(self._background.cancel)
            self._under_way, self._unapplied = None, None
        self._gradients.clear()
        self._replica.move(position, equalized=False)
        self._replica.shared = shared
        self._settle(position)

    # --- one step after the other ---

    def _advance(self) -> StepReport:
        advice = self._ask()
        if advice is Advice.CATCH_UP:
            return self.report(caught_up=self._catch_up())
        if advice is Advice.ROUND:
            return self._hold_round()
        return self.report()

    def _hold_round(self) -> StepReport:
        samples = self._gradients.samples
        means = self._gradients.means()
        try:
            result = self._call(self._session.hold_round, means, samples)
        except RoundFailed as failure:
            return self._on_failure(failure)
        if not result.accepted:
            report = self._on_discarded(result)
            self._commit(result, samples)
            return report
        self._failures = 0
        self._replica.step(means, result.position, result.shared)
        self._gradients.clear()
        self._commit(result, 0)
        return self.report(stepped=True, samples=samples, round=result.report)

    # --- delayed updates ---

    def _advance_delayed(self) -> StepReport:
        if self._under_way is not None:
            report = self._hear(patient=False)
            if report is not None:
                return report
        advice = self._ask()
        if advice is Advice.ACCUMULATE:
            return self.report()
        applied = self._apply()
        if advice is Advice.CATCH_UP:
            return self._report_of(applied, caught_up=self._catch_up())
        assert self._background is not None
        self._under_way = BackgroundRound(self._gradients.means(), self._gradients.samples)
        self._gradients.clear()
        self._call(self._background.begin, self._under_way)
        return self._report_of(applied, began=True)

    def _hear(self, *, patient: bool) -> StepReport | None:
        """Hear of the round under way; None if it has ended and its step can be taken."""
        round = self._under_way
        assert round is not None
        assert self._background is not None
        if not self._call(self._background.hear, round, self._gradients.samples, patient):
            return self.report()
        if round.result is not None and round.result.accepted:
            self._under_way, self._unapplied = None, round
            return None
        self._under_way = None
        self._gradients.restore(round.means, round.samples)
        if round.failure is not None:
            return self._on_failure(round.failure)
        return self._on_discarded(round.result) if round.result is not None else self.report()

    def _apply(self) -> BackgroundRound | None:
        """Take the step of the round that was heard of, if there is one."""
        round, self._unapplied = self._unapplied, None
        if round is not None:
            assert round.result is not None
            self._failures = 0
            self._replica.step(round.means, round.result.position, round.result.shared)
        return round

    def _finish(self) -> bool:
        """Wait for the round under way and apply it; True if the swarm's state was taken over."""
        if self._background is None:
            return False
        report = self._hear(patient=True) if self._under_way is not None else None
        self._apply()
        self._call(self._background.on_applied)
        return report is not None and report.caught_up

    def _report_of(
        self, applied: BackgroundRound | None, *, began: bool = False, caught_up: bool = False
    ) -> StepReport:
        if applied is None or applied.result is None:
            return self.report(began=began, caught_up=caught_up)
        return self.report(
            stepped=True,
            samples=applied.samples,
            round=applied.result.report,
            began=began,
            caught_up=caught_up,
        )

    # --- helpers of both ---

    def _ask(self) -> Advice:
        """Tell how far we are, and hear what to do."""
        delayed = self._background is not None
        advice: Advice = self._call(
            self._session.advise if delayed else self._session.advance,
            self._gradients.samples,
            self._speed.units_per_s,
            self._pace.seconds_each,
        )
        return advice

    def _on_discarded(self, result: RoundResult) -> StepReport:
        """A round led on without a step; all that was accumulated stays."""
        self._failures = 0
        # The parameters are still what they were, perhaps the same bits at all peers.
        self._replica.move(result.position, equalized=self._replica.equalized)
        return self.report(
            round=result.report, failure="too little of the global batch was delivered"
        )

    def _on_failure(self, failure: RoundFailed) -> StepReport:
        report = failure.report
        logger.warning("round_failed %s", report)
        if report.behind is not None and self._catch_up(report.behind):
            return self.report(round=report, caught_up=True)
        self._failures += 1
        if self._failures >= self._failures_max:
            failures, self._failures = self._failures, 0
            raise SwarmStuck(failures, report.reason) from failure
        return self.report(round=report, failure=report.reason or "the round failed")

    def _catch_up(self, hint: RoundId | None = None) -> bool:
        """Take over the swarm's state; False if nobody turned out to be ahead."""
        caught: CaughtUp | None = self._call(catch_up, self._session, hint)
        if caught is None:
            return False
        self._replica.take_over(caught)
        self._failures = 0
        self._settle(caught.position, caught.past)
        logger.info("caught_up step=%d rounds=%d", self._replica.position.step, len(caught.rounds))
        return True

    def _commit(self, result: RoundResult, samples: int, *, equalized: bool = False) -> None:
        """Tell the session that a round's result is applied, and how the parameters look now."""
        commit = partial(self._session.commit, sketch=self._sketch(), equalized=equalized)
        self._call(commit, result, samples)

    def _settle(self, position: Position, past: Sequence[RoundId] = ()) -> None:
        """Tell the session that the replica's state is another one now."""
        shared = self._replica.shared
        self._call(self._session.settle, position, past, self._sketch(), shared)

    def _sketch(self) -> Sketch:
        """Of the parameters, where they are those of our position; delayed ones lag behind it."""
        return self._replica.sketch() if self._background is None else ()

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Cross the portal, and count how long it took."""
        began_s = time.perf_counter()
        try:
            return self._cross(function, *args)
        except BaseException:
            self._gradients.forget_staging()
            raise
        finally:
            self._waited_s += time.perf_counter() - began_s

    def report(
        self,
        *,
        stepped: bool = False,
        samples: int | None = None,
        round: RoundReport | None = None,
        caught_up: bool = False,
        began: bool = False,
        failure: str = "",
    ) -> StepReport:
        """What this call did, and where that led."""
        return StepReport(
            global_step=self._replica.position.step,
            stepped=stepped,
            samples=self._gradients.samples if samples is None else samples,
            target=self._replica.target,
            skipped=self._skips,
            round=round,
            caught_up=caught_up,
            began=began,
            waited_s=self._waited_s,
            failure=failure,
        )


def _downloaded_report(round: RoundId) -> RoundReport:
    """Stands for the averaging that the others did while we were away."""
    return RoundReport(
        group_id=b"",
        round=round,
        members={},
        digest=round.parent,
        succeeded=True,
        outcome="success",
        reason="the others had averaged already; their state was downloaded",
    )
