"""The event log of one trainer: what happened, as one small dictionary per event.

Each has "time_s", seconds since 1970, and "event"; the rest depends on the event:

    prepared      nothing more: model and data are there
    warned        reason: what the recipe promises less than one may think
    started       peer_id, addresses, run, step
    progress      step, samples accumulated, samples_per_s, the same of the whole swarm as
                  swarm_samples and swarm_samples_per_s, global_batch, peers, paths by peer
                  connected to
    step          step, loss (null where nothing was computed), samples of ours in it, seconds,
                  round
    round_failed  step reached, reason, round
    postponed     step reached, reason: an exchange was due, and no round was held; told once for
                  each reason between two steps
    caught_up     step taken over, seconds
    skipped       step reached, reason: a micro-batch whose loss or gradient was not finite
    privacy       step, epsilon spent so far, its budget, delta: after each step of a private run
    checkpoint    path
    finished      step, figures by name, accuracy or null, hash of the parameters, samples of ours,
                  equal: whether the last averaging of the parameters succeeded, null with a
                  strategy, which has none
    stopped       step, reason

A round is members, fractions by member, seconds, succeeded, secure: whether it was a secure sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from averaging import RoundReport
    from training.privacy.budget import PrivacyBudget
    from training.step_report import StepReport
    from training.swarm import Swarm

EventHandler = Callable[[dict[str, Any]], None]

# People read the progress between steps; ten lines a second are more than they can.
PROGRESS_INTERVAL_S = 0.2


class RunLog:
    """Turns what the training loop sees into events, and remembers what the result needs.

    Args:
        tells_loss: whether other peers hear of the loss; it is no secret in the log itself.
    """

    def __init__(self, on_event: EventHandler, *, tells_loss: bool = True) -> None:
        self._on_event = on_event
        self._tells_loss = tells_loss
        self._losses: list[float] = []
        self._postponed = ""
        self._loss: float | None = None
        self._step_began_s = self._began_s = time.time()
        self._progress_told_s = 0.0
        self.peer_id: str | None = None
        self.step = 0
        self.samples = 0

    @property
    def seconds(self) -> float:
        """Time since the run began here."""
        return time.time() - self._began_s

    def prepared(self) -> None:
        """Model and data are there; the swarm is joined next."""
        self._tell("prepared")

    def warned(self, reason: str) -> None:
        """The recipe promises less than one may think."""
        self._tell("warned", reason=reason)

    def started(self, swarm: Swarm, *, run: str, step: int, samples: int) -> None:
        """The swarm was joined."""
        self.peer_id, self.step, self.samples = swarm.peer_id, step, samples
        self._tell("started", peer_id=swarm.peer_id, addresses=swarm.addresses, run=run, step=step)
        self._step_began_s = time.time()

    def progress(self, swarm: Swarm) -> None:
        """Some samples were computed; told a few times per second at most."""
        now_s = time.time()
        if now_s - self._progress_told_s < PROGRESS_INTERVAL_S:
            return
        self._progress_told_s = now_s
        swarm.tell(samples=self.samples, loss=self._loss if self._tells_loss else None)
        peers = swarm.peers
        here = [peer for peer in peers if peer.holds_state and peer.step == swarm.global_step]
        me = next((peer for peer in peers if peer.is_me), None)
        self._tell(
            "progress",
            step=self.step,
            samples=me.samples if me else 0,
            samples_per_s=round(me.samples_per_s, 1) if me else 0.0,
            swarm_samples=sum(peer.samples for peer in here),
            swarm_samples_per_s=round(sum(peer.samples_per_s for peer in peers), 1),
            global_batch=swarm.global_batch,
            peers=max(len(peers), 1),
            paths=swarm.paths,
        )

    def after_micro_batch(self, report: StepReport, loss: float | None) -> None:
        """A micro-batch was accumulated, and perhaps a global step taken with it.

        Args:
            loss: None from a peer that was not drawn, and computed nothing.
        """
        if loss is not None:
            self._loss = loss
            self._losses.append(loss)
        self.step = report.global_step
        if report.caught_up:
            self.caught_up(report.global_step)
        if report.round is not None and report.failure:
            self.round_failed(report.round, report.failure)
        elif report.failure and report.failure != self._postponed:
            self._postponed = report.failure
            self._tell("postponed", step=self.step, reason=report.failure)
        if report.stepped:
            self.samples += report.samples
            self._tell(
                "step",
                step=report.global_step,
                loss=self._mean_loss(),
                samples=report.samples,
                seconds=round(time.time() - self._step_began_s, 4),
                round=describe_round(report.round) if report.round else None,
            )
            self._begin_step()

    def caught_up(self, step: int) -> None:
        """The swarm was elsewhere, and its state was taken over."""
        seconds = time.time() - self._step_began_s
        self.step = step
        self._tell("caught_up", step=step, seconds=round(seconds, 4))
        self._begin_step()

    def round_failed(self, report: RoundReport, reason: str) -> None:
        """A round brought no step; what was accumulated is kept."""
        content = describe_round(report) | {"succeeded": False}
        self._tell("round_failed", step=self.step, reason=reason, round=content)

    def skipped(self, reason: str) -> None:
        """A micro-batch was dropped, and the swarm never saw it."""
        self._tell("skipped", step=self.step, reason=reason)

    def spent(self, budget: PrivacyBudget) -> None:
        """A step was paid for from a privacy budget."""
        self._tell(
            "privacy",
            step=self.step,
            epsilon=round(budget.spent, 6),
            budget=budget.epsilon,
            delta=budget.delta,
        )

    def checkpoint(self, path: Path) -> None:
        """A checkpoint was written."""
        self._tell("checkpoint", path=str(path))

    def finished(
        self, *, figures: dict[str, float], parameter_hash: str, equal: bool | None
    ) -> None:
        """The last step is done; `equal` says whether the last re-averaging succeeded, if any."""
        self._tell(
            "finished",
            step=self.step,
            figures=figures,
            accuracy=figures.get("accuracy"),
            hash=parameter_hash,
            samples=self.samples,
            equal=equal,
        )

    def stopped(self, reason: str) -> None:
        """The run was left before its last step."""
        self._tell("stopped", reason=reason, step=self.step)

    def _mean_loss(self) -> float | None:
        """Over the micro-batches since the last step, if there were any."""
        if not self._losses:
            return None
        return round(sum(self._losses) / len(self._losses), 6)

    def _begin_step(self) -> None:
        self._postponed = ""
        self._losses.clear()
        self._step_began_s = time.time()

    def _tell(self, event: str, **content: Any) -> None:
        self._on_event({"time_s": round(time.time(), 4), "event": event, **content})


def describe_round(report: RoundReport) -> dict[str, Any]:
    """A round in the words of the event log."""
    return {
        "members": sorted(report.members),
        "fractions": {peer: member.fraction for peer, member in sorted(report.members.items())},
        "seconds": round(report.seconds, 4),
        "succeeded": report.succeeded,
        "secure": report.secure,
    }
