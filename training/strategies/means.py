"""MeanExchanger: exchanges of means through a session of the run, as global steps are made.

Reaching all others, following them without a state, leaving out who is lost: the rounds are those
of the synchronous optimizer, with other tensors and another measure of when they are due. A tactic
with a delay lets the round go on while this peer takes so many local steps. A round may be a secure
sum; training/strategies/secure_offers.py says what becomes of an offer whose sum failed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
import trio
from torch import nn

from averaging import RoundFailed, RoundId, RoundReport, UpdateSpent
from p2p import Dht, Node, Portal, open_service_nursery
from training.advice import Advice, OnCaller, RoundResult
from training.config import SwarmConfig
from training.delivered import contributors_of
from training.follow import CaughtUp, catch_up
from training.model_state import Array, ModelState
from training.progress import BatchView, PeerProgress, Position
from training.session import Session, open_session
from training.step_report import StepReport
from training.strategies.exchanger import Evaluate, Place
from training.strategies.replica import Replica
from training.strategies.secure_offers import SecureOffers
from training.strategies.strategy import Strategy, Tactic

logger = logging.getLogger(__name__)

# A round's result counts, whatever its members brought: nobody has a batch to fill.
_ACCEPT_FRACTION = 1e-9

_REPEATED = (
    "these steps led to the very update that was offered before, which a secure sum must not hold "
    "twice; they are gone, so draw other samples"
)


def session_config(config: SwarmConfig) -> SwarmConfig:
    """The user's options, for rounds that have no batch to fill."""
    return replace(config, accept_fraction=_ACCEPT_FRACTION)


class MeanExchanger:
    """An Exchanger; see there."""

    def __init__(
        self,
        strategy: Strategy,
        model: nn.Module,
        state: ModelState,
        place: Place,
        secure: SecureOffers | None = None,
    ) -> None:
        self._too_few = ""
        """Why the last exchange was not held, as the log was told."""
        self._replica = Replica(strategy, model, state, me=place.me, secure=secure)
        self._plan = self._replica.plan(place.run, place.kind)
        self._call = place.call
        self._session: Session
        self._samples = 0
        self._flight: Flight | None = None
        """A round that goes on while we train."""

    def open(
        self,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
        on_caller: OnCaller,
    ) -> None:
        """Enter the run; raises SpecDiffers."""
        session = open_session(*network, self._plan, session_config(config), on_caller)
        self._session = portal.enter(session)
        self._nursery = portal.enter(open_service_nursery())
        self._replica.schedule.watch(self._session.tracker.view)
        self._call(self._session.introduce)
        # Now that the others are known, it is decided who is drawn.
        self._call(self._session.view)

    @property
    def tactic(self) -> Tactic:
        """What decides for this peer."""
        return self._replica.tactic

    @property
    def global_step(self) -> int:
        """Exchanges so far."""
        return self._replica.position.step

    def check(self, loss: float | None, evaluate: Evaluate | None) -> None:
        """Neither is needed."""

    def on_gradient(self) -> None:
        """The tactic may correct them."""
        self._replica.on_gradient()

    def on_local_step(self, *, samples: int, loss: float | None) -> None:
        """The parameters have just taken a step."""
        self._samples += samples
        self._replica.on_local_step(samples=samples, loss=loss)

    def advance(
        self, samples_per_s: float, period_s: float, evaluate: Evaluate | None
    ) -> StepReport:
        """Tell how far we are; exchange when it is due, or catch up with the swarm."""
        if self._flight is not None:
            landing = self._replica.steps_since_offer >= self.tactic.delay
            return self._land(self._flight) if landing else self.report()
        advice = self._call(self._session.advance, self._replica.steps, samples_per_s, period_s)
        if advice is Advice.CATCH_UP:
            return self.report(caught_up=self._catch_up())
        if advice is Advice.ACCUMULATE:
            return self.report()
        too_few = self._replica.too_few()
        if too_few is not None:
            if too_few != self._too_few:
                logger.warning("exchange_skipped reason=%s", too_few)
            self._too_few = too_few
            self._replica.on_skipped()
            return self.report(failure=too_few)
        self._too_few = ""
        self._flight = Flight(self._session, *self._replica.offer(), samples=self._samples)
        if not self.tactic.delay:
            return self._land(self._flight)
        self._call(self._flight.begin, self._nursery)
        return self.report()

    def synchronize(self, evaluate: Evaluate | None = None) -> bool:
        """Take over the swarm's state where it is elsewhere; True if that was so."""
        if self._flight is not None:
            self._land(self._flight)
        advice = self._call(self._session.advance, self._replica.steps, 0.0, 0.0)
        return advice is Advice.CATCH_UP and self._catch_up()

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same."""
        view: BatchView = self._call(self._session.view)
        return view.peers

    def state_hash(self) -> str:
        """Of what all hold alike."""
        return self._replica.state_hash()

    def state_dict(self) -> dict[str, Any]:
        """What to go on from."""
        position = self._replica.position
        return {
            "round": position.round.number,
            "parent": position.round.parent.hex(),
            "step": position.step,
            "samples": position.samples,
            "local_steps": self._replica.steps,
            "local_samples": self._samples,
            "held": {name: torch.from_numpy(a) for name, a in self._replica.held().items()},
        }

    def load_state_dict(self, saved: dict[str, Any] | None) -> None:
        """Go on from there, or begin anew with the model as it is."""
        if self._flight is not None:
            self._land(self._flight)
        if saved is None:
            self._samples = 0
            self._replica.begin_anew()
        else:
            self._samples = saved["local_samples"]
            round_id = RoundId(saved["round"], bytes.fromhex(saved["parent"]))
            self._replica.resume(
                {name: tensor.numpy() for name, tensor in saved["held"].items()},
                Position(round_id, saved["step"], saved["samples"]),
                steps=saved["local_steps"],
                samples=self._samples,
            )
            # Who saved this may have offered these steps, and nobody here remembers.
            self._drop()
        self._call(self._session.settle, self._replica.position)

    def report(
        self,
        *,
        stepped: bool = False,
        round: RoundReport | None = None,
        caught_up: bool = False,
        failure: str = "",
    ) -> StepReport:
        """What step() returns."""
        return StepReport(
            global_step=self.global_step,
            stepped=stepped,
            samples=self._samples,
            target=self._replica.tactic.interval * self._replica.tactic.trainers,
            round=round,
            caught_up=caught_up,
            failure=failure,
        )

    def _land(self, flight: Flight) -> StepReport:
        """The round's result, awaited where it is not there yet, and applied."""
        self._flight = None
        try:
            result: RoundResult = self._call(flight.result)
        except RoundFailed as failed:
            return self._on_failure(failed.report)
        except UpdateSpent:
            self._drop()
            logger.warning("exchange_skipped reason=%s", _REPEATED)
            return self.report(failure=_REPEATED)
        except BaseException:
            # Nobody knows how far it came.
            self._drop()
            raise
        if result.report.secure:
            logger.info(
                "secure_exchange exchange=%d offers=%d samples=%g",
                result.position.step,
                len(contributors_of(result.report)),
                result.report.weight_sum,
            )
        self._replica.apply(result, flight.tensors)
        self._call(self._session.commit, result, self._replica.steps)
        failure = "" if result.accepted else "nobody in the round had trained"
        report = self.report(stepped=result.accepted, round=result.report, failure=failure)
        self._samples -= flight.samples
        return replace(report, samples=flight.samples)

    def _on_failure(self, report: RoundReport) -> StepReport:
        logger.warning("exchange_skipped %s", report)
        failure = report.reason or "the round failed"
        if self._replica.on_failure(report):
            self._samples = 0
            failure += "; what was offered is spent, and the steps since the last exchange are gone"
        if report.behind is not None and self._catch_up(report.behind):
            return self.report(round=report, caught_up=True)
        return self.report(round=report, failure=failure)

    def _drop(self) -> None:
        """Forget steps that a secure sum may have told somebody."""
        if self._replica.drop():
            self._samples = 0

    def _catch_up(self, hint: RoundId | None = None) -> bool:
        caught: CaughtUp | None = self._call(catch_up, self._session, hint)
        if caught is None:
            return False
        self._replica.take_over(caught)
        self._samples = 0
        self._call(self._session.settle, caught.position, caught.past)
        logger.info("caught_up exchange=%d rounds=%d", self.global_step, len(caught.rounds))
        return True


class Flight:
    """One round, from the offer to its result; trio's side runs it."""

    def __init__(
        self, session: Session, tensors: dict[str, Array], weight: int, *, samples: int
    ) -> None:
        self.tensors = tensors
        """The offer; the means once there is a result."""
        self.samples = samples
        """Of this peer's, in the offer."""
        self._session = session
        self._weight = weight
        self._begun = False
        self._ended = trio.Event()
        self._result: RoundResult | RoundFailed | UpdateSpent

    async def begin(self, nursery: trio.Nursery) -> None:
        """Let it go on while the caller does something else."""
        self._begun = True
        nursery.start_soon(self._run)

    async def result(self) -> RoundResult:
        """What came of it; raises RoundFailed or UpdateSpent."""
        if not self._begun:
            await self._run()
        await self._ended.wait()
        if isinstance(self._result, RoundFailed | UpdateSpent):
            raise self._result
        return self._result

    async def _run(self) -> None:
        try:
            self._result = await self._session.hold_round(self.tensors, self._weight)
        except (RoundFailed, UpdateSpent) as failed:
            self._result = failed
        self._ended.set()
