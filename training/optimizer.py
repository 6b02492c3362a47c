"""SwarmOptimizer: an optimizer of PyTorch that steps together with the swarm.

Each micro-batch's gradient is added to the sums; when all peers together have a global batch,
their sums are averaged by samples, and each peer lets the wrapped optimizer take the same step. So
N peers whose samples add up to the global batch take the step of one machine on those samples.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from averaging import Manifest, RoundFailed, RoundId, RoundReport, Snapshot
from p2p import CallerJobs, Dht, MessageInvalid, Node, Portal
from training.config import SwarmConfig
from training.errors import SwarmStuck
from training.follow import CaughtUp, catch_up
from training.gradients import Gradients
from training.model_state import ModelState
from training.progress import BatchSchedule, BatchView, PeerProgress, Position, SpeedMeter
from training.session import Advice, SessionPlan, open_session
from training.state_metadata import decode_metadata_untrusted, encode_metadata

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Where the swarm is, inside state_dict(): torch's own optimizers ignore the entry.
_POSITION_KEY = "swarm"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one call of step() did."""

    global_step: int
    """Global steps taken so far."""
    stepped: bool
    """Whether this call took one."""
    samples: int
    """This peer's: those that went into the step, or those accumulated for the next one."""
    round: RoundReport | None = None
    """The round that was held, successful or not."""
    caught_up: bool = False
    """The swarm was elsewhere, and its state was taken over; what was accumulated is gone."""
    failure: str = ""
    """Why no step was taken though it was due; step() tries again at its next call."""


class SwarmOptimizer(torch.optim.Optimizer):
    """Wraps any optimizer of PyTorch; schedulers and checkpoints take it for one.

    Made by Swarm.optimizer(). Hyperparameters are each peer's own and must be equal: drive a
    scheduler by the global step, such that it has made `report.global_step` steps.
    """

    def __init__(
        self,
        wrapped: torch.optim.Optimizer,
        *,
        model: nn.Module,
        schedule: BatchSchedule,
        run: str,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
    ) -> None:
        self._wrapped = wrapped
        # Not Optimizer.__init__: groups and state are the wrapped optimizer's. This is what
        # unpickling does, and it sets up the hooks that schedulers and profilers look for.
        super().__setstate__({"defaults": wrapped.defaults})
        self._portal = portal
        self._config = config
        self._jobs = CallerJobs()
        self._owner = threading.get_ident()
        self._state = ModelState(model, wrapped)
        self._gradients = Gradients(self._state.trained)
        self._snapshot: tuple[Position, Snapshot] | None = None
        self._position = Position(RoundId(0, self._state.digest()))
        self._equalized = False
        self._synchronized = False
        self._failures = 0
        spec = self._gradients.spec
        identity = f"{type(wrapped).__name__}\0{schedule!r}\0".encode()
        plan = SessionPlan(
            run=run,
            spec=spec,
            spec_hash=hashlib.sha256(identity + spec.hash).digest(),
            schedule=schedule,
            position=self._position,
            check_state=self._complaint,
            take_snapshot=self._take_snapshot,
        )
        self._session = portal.enter(open_session(*network, plan, config, self._jobs.run))
        self._call(self._session.introduce)
        self._speed, self._pace = SpeedMeter(), SpeedMeter()
        self._computing_since_s = time.perf_counter()

    # --- what PyTorch expects of an optimizer ---

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self._wrapped.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self._wrapped.state

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, and where in the run it belongs."""
        position = self._position
        return {
            **self._wrapped.state_dict(),
            _POSITION_KEY: {
                "round": position.round.number,
                "parent": position.round.parent.hex(),
                "step": position.step,
                "samples": position.samples,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the wrapped optimizer's state; load the model's parameters first.

        With a position the run goes on from there; without one it begins at step 0.
        """
        content = dict(state_dict)
        saved = content.pop(_POSITION_KEY, None)
        self._wrapped.load_state_dict(content)
        if saved is None:
            position = Position(RoundId(0, self._state.digest()))
        else:
            parent = bytes.fromhex(saved["parent"])
            position = Position(RoundId(saved["round"], parent), saved["step"], saved["samples"])
        self._gradients.clear()
        self._move(position, equalized=False)
        self._call(self._session.settle, position)

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        """Refused: all peers must train the same parameters."""
        raise ValueError("add parameter groups before swarm.optimizer() wraps the optimizer")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the parameters' gradients; what was accumulated for the swarm stays."""
        self._wrapped.zero_grad(set_to_none=set_to_none)

    # --- training together ---

    @property
    def global_step(self) -> int:
        """Global steps taken so far."""
        return self._position.step

    @property
    def global_batch(self) -> int:
        """How many samples all peers together put into the next global step."""
        target: int = self._session.target
        return target

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, samples: int | None = None
    ) -> StepReport:
        """Add the gradients of a micro-batch; when the swarm has a global batch, step with it.

        The gradients must be those of the mean loss over `samples` samples. They are taken from
        the parameters.

        Raises:
            ValueError: no gradient, or samples is missing or below 1.
            SpecDiffers: others train something else under this name.
            CatchUpFailed: the swarm is ahead and its state cannot be had.
            SwarmStuck: too many rounds failed one after another; nothing accumulated is lost.
        """
        if closure is not None:
            raise ValueError("closures are not supported: compute the loss before step()")
        if samples is None or samples < 1:
            raise ValueError(
                "step(samples=…) needs the number of samples in the micro-batch, at least 1, "
                f"not {samples}"
            )
        computed_s = time.perf_counter() - self._computing_since_s
        if not self._synchronized and self.synchronize():
            # This micro-batch was computed with parameters that are not the swarm's.
            self.zero_grad()
            return self._report(caught_up=True)
        self._gradients.add(samples)
        self._speed.on_done(samples, computed_s)
        self._pace.on_done(1, computed_s)
        report = self._advance()
        self._computing_since_s = time.perf_counter()
        return report

    def synchronize(self) -> bool:
        """Take over the swarm's state where the swarm is elsewhere; True if that was so.

        step() does it by itself; before the first micro-batch it saves computing that one in vain.

        Raises:
            SpecDiffers, CatchUpFailed: as step() does.
        """
        self._synchronized = True
        advice = self._ask()
        caught_up = advice is Advice.CATCH_UP and self._catch_up()
        self._computing_since_s = time.perf_counter()
        return caught_up

    def reaverage(self) -> RoundReport:
        """Average parameters, buffers and moments, so that all who take part hold the same bits.

        All peers call it at the same global step. Who was behind takes over the others' state.

        Raises:
            RoundFailed: no result; nothing has changed.
            CatchUpFailed: as step() does.
        """
        if self.synchronize() and self._equalized:
            return self._downloaded_report()
        state = self._state.float_arrays()
        try:
            result = self._call(self._session.equalize, state)
        except RoundFailed as failure:
            behind = failure.report.behind
            if behind is not None and self._catch_up(behind) and self._equalized:
                return self._downloaded_report()
            raise
        self._state.load_floats(state)
        self._move(result.position, equalized=True)
        self._call(self._session.commit, result, self._gradients.samples)
        report: RoundReport = result.report
        return report

    def state_hash(self) -> str:
        """SHA-256 of the parameters' bytes in order of their names, in hex."""
        return self._state.parameter_hash()

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same, this one included."""
        view: BatchView = self._call(self._session.view)
        return view.peers

    # --- helpers ---

    def _advance(self) -> StepReport:
        advice = self._ask()
        if advice is Advice.CATCH_UP:
            return self._report(caught_up=self._catch_up())
        if advice is Advice.ROUND:
            return self._hold_round()
        return self._report()

    def _ask(self) -> Advice:
        """Tell how far we are, and hear what to do."""
        advice: Advice = self._call(
            self._session.advance,
            self._gradients.samples,
            self._speed.units_per_s,
            self._pace.seconds_each,
        )
        return advice

    def _hold_round(self) -> StepReport:
        samples = self._gradients.samples
        means = self._gradients.means()
        try:
            result = self._call(self._session.hold_round, means, samples)
        except RoundFailed as failure:
            return self._on_failure(failure)
        self._failures = 0
        if result.accepted:
            self._gradients.apply(means, self._wrapped)
            self._gradients.clear()
        self._move(result.position, equalized=self._equalized and not result.accepted)
        self._call(self._session.commit, result, self._gradients.samples)
        if not result.accepted:
            return self._report(
                round=result.report, failure="too little of the global batch was delivered"
            )
        return self._report(stepped=True, samples=samples, round=result.report)

    def _on_failure(self, failure: RoundFailed) -> StepReport:
        report = failure.report
        logger.warning("round_failed %s", report)
        if report.behind is not None and self._catch_up(report.behind):
            return self._report(round=report, caught_up=True)
        self._failures += 1
        if self._failures >= self._config.failures_max:
            failures, self._failures = self._failures, 0
            raise SwarmStuck(failures, report.reason) from failure
        return self._report(round=report, failure=report.reason or "the round failed")

    def _catch_up(self, hint: RoundId | None = None) -> bool:
        """Take over the swarm's state; False if nobody turned out to be ahead."""
        caught: CaughtUp | None = self._call(catch_up, self._session, hint)
        if caught is None:
            return False
        self._state.load(caught.snapshot.arrays, caught.metadata.scalars)
        for kept in caught.rounds:
            if kept.gradients is not None:
                self._gradients.apply(kept.gradients, self._wrapped)
        self._gradients.clear()
        self._failures = 0
        self._move(caught.position, equalized=caught.metadata.equalized and not caught.rounds)
        self._call(self._session.settle, caught.position, caught.past)
        logger.info("caught_up step=%d rounds=%d", self.global_step, len(caught.rounds))
        return True

    def _move(self, position: Position, *, equalized: bool) -> None:
        self._position = position
        self._equalized = equalized

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Cross the portal; a snapshot that somebody wants meanwhile is copied by this thread."""
        jobs = self._jobs if threading.get_ident() == self._owner else None
        try:
            return self._portal.call(function, *args, jobs=jobs)
        except BaseException:
            self._gradients.forget_staging()
            raise

    def _take_snapshot(self) -> Snapshot:
        """A copy of the state, made once for each position."""
        if self._snapshot is None or self._snapshot[0] != self._position:
            metadata = encode_metadata(
                self._position, equalized=self._equalized, scalars=self._state.scalars()
            )
            self._snapshot = (
                self._position,
                Snapshot(self._position.round.number, metadata, self._state.arrays()),
            )
        return self._snapshot[1]

    def _complaint(self, manifest: Manifest) -> str | None:
        try:
            decode_metadata_untrusted(manifest.metadata, version=manifest.version)
        except MessageInvalid as exc:
            return str(exc)
        return self._state.complaint(manifest.table)

    def _report(
        self,
        *,
        stepped: bool = False,
        samples: int | None = None,
        round: RoundReport | None = None,
        caught_up: bool = False,
        failure: str = "",
    ) -> StepReport:
        return StepReport(
            global_step=self.global_step,
            stepped=stepped,
            samples=self._gradients.samples if samples is None else samples,
            round=round,
            caught_up=caught_up,
            failure=failure,
        )

    def _downloaded_report(self) -> RoundReport:
        """Stands for the averaging that the others did while we were away."""
        return RoundReport(
            group_id=b"",
            round=self._position.round,
            members={},
            digest=self._position.round.parent,
            succeeded=True,
            outcome="success",
            reason="the others had averaged already; their state was downloaded",
        )
