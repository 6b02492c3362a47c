"""SwarmOptimizer: an optimizer of PyTorch that steps together with the swarm.

Each micro-batch's gradient is added to the sums; when all peers together have a global batch,
their sums are averaged by samples, and each peer lets the wrapped optimizer take the same step. So
N peers whose samples add up to the global batch take the step of one machine on those samples.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from averaging import RoundReport
from p2p import CallerJobs, Dht, Node, Portal
from training.config import SwarmConfig
from training.delayed import open_background_rounds
from training.learning_rate import LrRule, check_lr_rule
from training.model_state import is_sharded
from training.progress import BatchSchedule, BatchView, PeerProgress
from training.replica import Replica
from training.session import open_session
from training.session_plan import SessionPlan
from training.state_metadata import position_from_dict, position_to_dict
from training.step_report import StepReport
from training.stepping import Stepper

if TYPE_CHECKING:
    from training.shards import Shards

# Where the swarm is, inside state_dict(): torch's own optimizers ignore the entry.
_POSITION_KEY = "swarm"
_SHARED_KEY = "shared"
SIT_OUT_S = 0.02
"""So long those who are due may wait for one who computes nothing."""


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
        lr_rule: LrRule = "constant",
        delayed: bool = False,
        reaverage_every: int = 0,
        run: str,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
    ) -> None:
        check_lr_rule(lr_rule)
        _check_reaverage_every(reaverage_every, delayed=delayed)
        self._wrapped = wrapped
        # Not Optimizer.__init__: groups and state are the wrapped optimizer's. This is what
        # unpickling does, and it sets up the hooks that schedulers and profilers look for.
        super().__setstate__({"defaults": wrapped.defaults})
        self._portal = portal
        self._jobs = CallerJobs()
        self._owner = threading.get_ident()
        self.shards = _shards_of(model, wrapped)
        """Of a model that is sharded over the ranks of this peer."""
        self._replica = Replica(
            wrapped, model, schedule, lr_rule, config.averager, shards=self.shards
        )
        spec = self._replica.gradients.spec
        identity = "\0".join(
            [type(wrapped).__name__, repr(schedule), lr_rule, str(delayed), f"{reaverage_every}\0"]
        )
        plan = SessionPlan(
            run=run,
            spec=spec,
            spec_hash=hashlib.sha256(identity.encode() + spec.hash).digest(),
            schedule=schedule,
            position=self._replica.position,
            sketch=() if delayed else self._replica.sketch(),
            rounding=self._replica.state.rounding,
            check_state=self._replica.complaint,
            take_snapshot=self._replica.take_snapshot,
        )
        self._session = portal.enter(open_session(*network, plan, config, self._jobs.run))
        self._call(self._session.introduce)
        self._stepper = Stepper(
            self._replica,
            self._session,
            self._call,
            background=portal.enter(open_background_rounds(self._session)) if delayed else None,
            failures_max=config.failures_max,
        )
        self._reaverage_every = reaverage_every
        self._reaverage_tried_at = 0
        self._synchronized = False
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
        """The wrapped optimizer's, and where in the run the parameters are.

        What is accumulated, or in a round under way, is no part of it.
        """
        return {
            **self._wrapped.state_dict(),
            _POSITION_KEY: {
                **position_to_dict(self._replica.position),
                _SHARED_KEY: {
                    name: torch.from_numpy(array.copy())
                    for name, array in self._replica.shared.items()
                },
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the wrapped optimizer's state; load the model's parameters first.

        With a position the run goes on from there; without one it begins at step 0. A round under
        way is given up.
        """
        content = dict(state_dict)
        saved = content.pop(_POSITION_KEY, None)
        self._wrapped.load_state_dict(content)
        position = self._replica.beginning if saved is None else position_from_dict(saved)
        kept: dict[str, torch.Tensor] = (saved or {}).get(_SHARED_KEY, {})
        shared = self._replica.fitting({name: tensor.numpy() for name, tensor in kept.items()})
        self._stepper.restart(position, shared)

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
        return self._replica.position.step

    @property
    def global_batch(self) -> int:
        """How many samples all peers together put into the next global step."""
        return self._replica.target

    @property
    def skipped_count(self) -> int:
        """Micro-batches that were left out since their gradients were not finite."""
        return self._stepper.skipped_count

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, samples: int | None = None
    ) -> StepReport:
        """Add the gradients of a micro-batch; when the swarm has a global batch, step with it.

        The gradients must be those of the mean loss over `samples` samples. They are taken from
        the parameters. Where one of them is not finite the micro-batch is left out, and the report
        says `skipped`.

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
            return self._stepper.report(caught_up=True)
        report = self._stepper.step(samples, computed_s)
        if self._reaverages_now():
            report = replace(report, reaveraged=self._stepper.try_reaverage())
        self._computing_since_s = time.perf_counter()
        return report

    def sit_out(self) -> StepReport:
        """Wait a moment without computing, and step if the swarm has a global batch by then.

        For a peer that has brought all that it should; call it again and again.

        Raises:
            SpecDiffers, CatchUpFailed, SwarmStuck: as step() does.
        """
        if not self._synchronized and self.synchronize():
            return self._stepper.report(caught_up=True)
        time.sleep(SIT_OUT_S)
        report = self._stepper.sit_out()
        self._computing_since_s = time.perf_counter()
        return report

    def synchronize(self) -> bool:
        """Take over the swarm's state where the swarm is elsewhere; True if that was so.

        step() does it by itself; before the first micro-batch it saves computing that one in vain.
        A round under way is waited for and applied.

        Raises:
            SpecDiffers, CatchUpFailed: as step() does.
        """
        self._synchronized = True
        caught_up = self._stepper.synchronize()
        self._computing_since_s = time.perf_counter()
        return caught_up

    def reaverage(self) -> RoundReport:
        """Average parameters, buffers and moments, so that all who take part hold the same bits.

        All peers call it at the same global step. Who was behind takes over the others' state. A
        round under way is waited for and applied: its step is taken first.

        Raises:
            RoundFailed: no result; nothing has changed.
            CatchUpFailed: as step() does.
        """
        caught_up = self.synchronize()
        return self._stepper.reaverage(caught_up=caught_up)

    def _reaverages_now(self) -> bool:
        """Whether all are to average their states here, and we have neither done nor tried it."""
        step = self._replica.position.step
        if not self._reaverage_every or step % self._reaverage_every or self._replica.equalized:
            return False
        tried, self._reaverage_tried_at = self._reaverage_tried_at, step
        return tried != step

    def state_hash(self) -> str:
        """SHA-256 of the parameters' bytes in order of their names, in hex."""
        return self._replica.state.parameter_hash()

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same, this one included."""
        view: BatchView = self._call(self._session.view)
        return view.peers

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Cross the portal; a snapshot that somebody wants meanwhile is copied by this thread."""
        copies = threading.get_ident() == self._owner
        if self.shards is not None:
            # It takes the other ranks, too.
            copies &= self.shards.followed
        jobs = self._jobs if copies else None
        return self._portal.call(function, *args, jobs=jobs)


def _shards_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Shards | None:
    """What reads and writes a model that is sharded; None of one that is not."""
    if not is_sharded(model):
        return None
    from training.shards import Shards

    return Shards(model, optimizer)


def _check_reaverage_every(steps: int, *, delayed: bool) -> None:
    if steps < 0:
        raise ValueError(f"reaverage_every must be a number of global steps, or 0: {steps}")
    if steps and delayed:
        raise ValueError(
            "reaverage_every cannot go with delayed updates: there is always a round under way "
            "then; call reaverage() where you can wait for it"
        )
