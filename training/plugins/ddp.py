"""ProcessGroupOptimizer: the processes of one torchrun job are one peer of a swarm together.

Each process wraps its model in DistributedDataParallel as ever. A communication hook weighs each
process's gradient by its samples and reduces the buckets to the first process; that one alone is in
the swarm, hands the mean on in step(), and broadcasts the parameters whenever they have changed.

The hook itself cannot speak to the swarm. DDP calls it for each bucket of each backward pass and
wants the gradient of this very pass back; but a round is due when all peers together have a global
batch, not at each pass; it averages all buckets or none; it may fail and be tried again with more
samples in it; and its end may be another state to take over, which parameters cannot be given in
the middle of a backward pass.
"""

# No `from __future__ import annotations`: DDP looks at the types of its hook.
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from training.errors import TrainingError
from training.optimizer import SwarmOptimizer
from training.progress import BatchSchedule
from training.step_report import StepReport
from training.swarm import Swarm

_FIRST = 0
_WELL, _FAILED = 0, 1


class FirstProcessFailed(TrainingError):
    """The process that speaks to the swarm raised an error; its output says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "the first process of the group failed, which speaks to the swarm for all; "
            "its own output says why"
        )


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """What one call of ProcessGroupOptimizer.step() did; the same in all processes."""

    global_step: int
    """Global steps taken so far."""
    stepped: bool
    """Whether this call took one."""
    samples: int
    """The group's: those that went into the step, or those accumulated for the next one."""
    caught_up: bool
    """The swarm was elsewhere, and its state was taken over; what was accumulated is gone."""
    swarm: StepReport | None
    """All that the swarm's optimizer said; in the first process only."""


class ProcessGroupOptimizer(torch.optim.Optimizer):
    """The optimizer of one process; all processes of the group make it with the same arguments.

    A pass is `optimizer.micro_batch(samples)`, the forward and backward pass, and
    `optimizer.step()`. Without DDP's synchronisation (`model.no_sync()`) several passes may
    precede one step; each names its samples, and their losses must then be scaled such that the
    gradient is that of the mean over all of them.

    Only the first process keeps the wrapped optimizer's state, and only its learning rates matter.

    Args:
        swarm: joined by the first process; None in all others.

    Raises:
        ValueError: the wrong processes joined.
        SpecDiffers: in the first process, and FirstProcessFailed in the others.
    """

    def __init__(
        self,
        wrapped: torch.optim.Optimizer,
        *,
        model: DistributedDataParallel,
        swarm: Swarm | None,
        global_batch: int | BatchSchedule,
    ) -> None:
        self.group: Any = model.process_group
        """The process group of the model."""
        if (swarm is not None) != (dist.get_rank(self.group) == _FIRST):
            raise ValueError("the first process of the group joins the swarm, and no other does")
        self._wrapped = wrapped
        super().__setstate__({"defaults": wrapped.defaults})
        self._tensors = [*model.module.parameters(), *model.module.buffers()]
        self._device = self._tensors[0].device
        self._global_step = 0
        self.samples = 0
        """This process's, in the gradient that is being computed."""
        self.shared: SwarmOptimizer | None = None
        """The swarm's optimizer in the first process, None in the others."""

        def share() -> None:
            if swarm is not None:
                self.shared = swarm.optimizer(
                    wrapped, model=model.module, global_batch=global_batch
                )

        self._in_first(share)
        model.register_comm_hook(self, weigh_and_reduce)

    # --- what PyTorch expects of an optimizer ---

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self._wrapped.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's; empty but in the first process."""
        return self._wrapped.state

    def state_dict(self) -> dict[str, Any]:
        """As SwarmOptimizer's.

        Raises:
            ValueError: in another process than the first, which has nothing to save.
        """
        if self.shared is None:
            raise ValueError("only the first process has a state to save")
        return self.shared.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what state_dict() gave, in all processes at once; what the first is given counts.

        Load the model's parameters before.
        """

        def load() -> None:
            if self.shared is not None:
                self.shared.load_state_dict(state_dict)

        self._in_first(load)
        self._broadcast_state()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the parameters' gradients; what was accumulated for the swarm stays."""
        self._wrapped.zero_grad(set_to_none=set_to_none)

    # --- training together; all processes call these alike ---

    @property
    def global_step(self) -> int:
        """Global steps taken so far."""
        return self._global_step

    def micro_batch(self, samples: int) -> None:
        """Say over how many samples the loss of the next forward and backward pass is the mean."""
        if samples < 1:
            raise ValueError(f"a micro-batch has at least one sample, not {samples}")
        self.samples += samples

    def synchronize(self) -> None:
        """Take over the swarm's state where the swarm is elsewhere.

        Raises:
            SpecDiffers, CatchUpFailed: in the first process, and FirstProcessFailed in the others.
        """

        def ask() -> None:
            if self.shared is not None:
                self.shared.synchronize()

        self._in_first(ask)
        self._broadcast_state()

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> GroupReport:
        """Hand the group's gradient on; when the swarm has a global batch, step with it.

        Raises:
            ValueError: a closure was given; or, in the first process, no gradient was computed.
            CatchUpFailed, SwarmStuck: in the first process, and FirstProcessFailed in the others.
        """
        if closure is not None:
            raise ValueError("closures are not supported: compute the loss before step()")
        counted = torch.tensor([self.samples], dtype=torch.int64, device=self._device)
        dist.all_reduce(counted, group=self.group)
        self.samples = 0
        report: StepReport | None = None

        def hand_on() -> None:
            nonlocal report
            if self.shared is not None:
                report = self._hand_on(self.shared, int(counted.item()))

        self._in_first(hand_on)
        # What is left in the other processes is part of a sum.
        self.zero_grad()
        said = [0, 0, 0]
        if report is not None:
            said = [report.stepped, report.caught_up, report.samples]
        stepped, caught_up, samples = self._told(said)
        if stepped or caught_up:
            self._broadcast_state()
        return GroupReport(
            global_step=self._global_step,
            stepped=bool(stepped),
            samples=samples,
            caught_up=bool(caught_up),
            swarm=report,
        )

    # --- helpers ---

    def _hand_on(self, shared: SwarmOptimizer, samples: int) -> StepReport:
        """Make the sums of the hook means over the group's samples, and step."""
        gradients = [
            parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if samples and gradients:
            torch._foreach_div_(gradients, samples)
        return shared.step(samples=samples)

    def _in_first(self, act: Callable[[], None]) -> None:
        """Do what may fail, in the first process only, and let the others know if it does."""
        try:
            act()
        except BaseException:
            self._told([_FAILED])
            raise
        if self._told([_WELL]) == [_FAILED]:
            raise FirstProcessFailed

    def _told(self, words: list[int]) -> list[int]:
        """What the first process says; what the others say is not heard."""
        tensor = torch.tensor(words, dtype=torch.int64, device=self._device)
        dist.broadcast(tensor, group=self.group, group_src=_FIRST)
        told: list[int] = tensor.tolist()
        return told

    def _broadcast_state(self) -> None:
        """Give every process the first one's parameters, buffers and step."""
        for tensor in self._tensors:
            dist.broadcast(tensor.detach(), group=self.group, group_src=_FIRST)
        step = self.shared.global_step if self.shared is not None else 0
        (self._global_step,) = self._told([step])


def weigh_and_reduce(
    state: ProcessGroupOptimizer,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """The communication hook: sums each process's gradient times its samples in the first process.

    What the others keep is part of the sum, and of no use.

    Raises:
        ValueError: micro_batch() was not called before the backward pass.
    """
    if state.samples < 1:
        raise ValueError("call micro_batch(samples) before each forward and backward pass")
    sums = bucket.buffer().mul_(state.samples)
    work = dist.reduce(sums, group=state.group, group_dst=_FIRST, async_op=True)
    future: torch.futures.Future[torch.Tensor] = work.get_future().then(lambda done: sums)
    return future
