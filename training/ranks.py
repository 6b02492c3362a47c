"""RankedOptimizer: one peer that is several processes, such as a machine with several GPUs.

Started by torchrun, or by anything that calls torch.distributed.init_process_group. Rank 0 alone
speaks to the swarm; all ranks make the same calls, in the same order:

    all ranks     how many samples, is anything wrong?             all-gather of two numbers
    all ranks ──▶ rank 0: gradients, times samples                 reduce
    rank 0        SwarmOptimizer.step() with their mean; may wait for the swarm
    rank 0 ──▶ all ranks: the report, or the error                 broadcast
    rank 0 ──▶ all ranks: parameters, if they have changed         broadcast

Only rank 0's wrapped optimizer steps and keeps moments. To the swarm this is one peer with as many
samples as its ranks have together.

Where fully_shard() (FSDP2) has divided the model over the ranks, each rank sums, keeps and steps
its own slice. While rank 0 is in the swarm the others give and take slices as it says: shards.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from averaging import RoundReport
from training.errors import RankFailed
from training.finite import all_finite
from training.gradients import wide_dtype
from training.model_state import is_sharded
from training.optimizer import SwarmOptimizer
from training.shards import Shards
from training.step_report import StepReport

T = TypeVar("T")


class RankedOptimizer(torch.optim.Optimizer):
    """A SwarmOptimizer on all ranks of a peer; schedulers and loops take it for one.

    Gradients are those of each rank's own samples. Where DDP has averaged them already the result
    is the same, for a second reduction. Those of a sharded model are what FSDP leaves: the mean
    over ranks, in which each rank counts the same; see loss_weight().

    Args:
        optimizer: on rank 0 what Swarm.optimizer() gave, on the others any optimizer of the same
            parameters: it holds the groups that schedulers want, and never steps. For a sharded
            model it is alike on all ranks, made after fully_shard(), and steps this rank's slice.
        model: as given to Swarm.optimizer(); rank 0's parameters and buffers replace the others',
            but for those that are sharded.
        group: the peer's process group, the default one unless told.

    Raises:
        ValueError: torch.distributed is not initialised, the optimizer does not fit the rank, or
            the model is sharded otherwise than by fully_shard() over these ranks.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        if not distributed.is_initialized():
            raise ValueError("call torch.distributed.init_process_group() first, as torchrun asks")
        first = distributed.get_rank(group) == 0
        if first != isinstance(optimizer, SwarmOptimizer):
            raise ValueError(
                "rank 0, and no other, needs the optimizer that swarm.optimizer() gave"
            )
        self._own = optimizer
        # As SwarmOptimizer does: groups and state are the given optimizer's.
        super().__setstate__({"defaults": optimizer.defaults})
        self._swarm = optimizer if isinstance(optimizer, SwarmOptimizer) else None
        self._shards = _shards_of(optimizer, model, group)
        self._group = group if self._shards is None else self._shards.group
        self._source = 0 if self._group is None else distributed.get_global_rank(self._group, 0)
        optimized = {id(p) for g in optimizer.param_groups for p in g["params"]}
        parameters = [p for _, p in sorted(model.named_parameters())]
        self._trained = [p for p in parameters if id(p) in optimized and p.requires_grad]
        self._unsharded: list[torch.Tensor] = [
            *(p for p in parameters if not isinstance(p, DTensor)),
            *(buffer for _, buffer in sorted(model.named_buffers())),
        ]
        self._weighed = False
        self._global_step = 0
        self._on_first(lambda swarm: None)
        self._broadcast(self._unsharded)

    # --- what PyTorch expects of an optimizer ---

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """This rank's; rank 0's count."""
        return self._own.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """This rank's; empty on all but rank 0, unless the model is sharded."""
        return self._own.state

    def state_dict(self) -> dict[str, Any]:
        """This rank's; save rank 0's. Of a sharded model each rank saves and loads its own."""
        return self._own.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """On rank 0 as SwarmOptimizer's, then its parameters go to all; all ranks call it."""
        if self._shards is not None and self._swarm is None:
            self._own.load_state_dict(state_dict)
        self._on_first(lambda swarm: swarm.load_state_dict(state_dict))
        self._send(everything=True)

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        """Refused: all ranks and peers must train the same parameters."""
        raise ValueError("add parameter groups before the optimizer is wrapped")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear this rank's gradients; what was accumulated for the swarm stays."""
        self._own.zero_grad(set_to_none=set_to_none)

    # --- training together ---

    @property
    def global_step(self) -> int:
        """Global steps taken so far."""
        return self._global_step

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, samples: int | None = None
    ) -> StepReport:
        """As SwarmOptimizer.step(), with this rank's samples; all ranks get the same report.

        A rank whose gradients are not finite is left out, and its own report says `skipped`. FSDP
        has mixed it with the others' already: of a sharded model all ranks are left out.

        Raises:
            ValueError: one of the ranks called it wrongly; all of them raise.
            RankFailed: rank 0 could not step; there the cause is raised.
        """
        misuse, skips = self._check(closure, samples)
        counted = 0 if misuse or skips or samples is None else samples
        counts, misused = zip(*self._told_by_all(counted, bool(misuse)), strict=True)
        if any(misused):
            raise ValueError(misuse or "another rank of this peer called step() wrongly")
        total, weighed, self._weighed = sum(counts), self._weighed, False
        if self._shards is None:
            self._reduce_gradients(counted, total)
        elif len(set(counts)) > 1 and not weighed:
            raise ValueError(
                f"the ranks have {counts} samples, and FSDP counts each rank the same: give all "
                "ranks the same number, or multiply the loss by loss_weight(samples=…)"
            )
        # With no sample at all the gradients are no numbers, and are left out there, too.
        report = self._on_first(lambda swarm: swarm.step(samples=max(total, 1)))
        if report.stepped or report.caught_up or report.reaveraged:
            self._send(everything=report.caught_up or report.reaveraged)
        self.zero_grad()
        return replace(report, skipped=skips) if self._shards is None else report

    def loss_weight(self, *, samples: int) -> float:
        """What to multiply this rank's mean loss by before backward(), so that all samples count.

        Needed where ranks of a sharded model have batches of different sizes; all of them call it.
        It is 1 where the model is not sharded, since step() weighs the ranks there.
        """
        if self._shards is None:
            return 1.0
        counts = [count for count, _ in self._told_by_all(samples, False)]
        self._weighed = True
        return samples * len(counts) / max(sum(counts), 1)

    def synchronize(self) -> bool:
        """As SwarmOptimizer.synchronize(); all ranks call it."""
        caught_up = self._on_first(lambda swarm: swarm.synchronize())
        self._send(everything=True)
        return caught_up

    def state_hash(self) -> str:
        """SHA-256 of the parameters' bytes in order of their names, in hex; all ranks call it."""
        return self._on_first(lambda swarm: swarm.state_hash())

    def reaverage(self) -> RoundReport:
        """As SwarmOptimizer.reaverage(); all ranks call it.

        Raises:
            RankFailed: on all but rank 0, where RoundFailed or CatchUpFailed is raised.
        """
        report = self._on_first(lambda swarm: swarm.reaverage())
        self._send(everything=True)
        return report

    # --- between the ranks ---

    def _check(self, closure: Callable[[], float] | None, samples: int | None) -> tuple[str, bool]:
        """What is wrong with this rank's call, and whether its gradients are left out."""
        if closure is not None:
            return "closures are not supported: compute the loss before step()", False
        if samples is None or samples < 1:
            return f"step(samples=…) needs a number of samples, at least 1, not {samples}", False
        gradients = [p.grad for p in self._trained if p.grad is not None]
        if not gradients:
            return "no parameter has a gradient; call loss.backward() before step()", False
        # Slices of a sharded gradient are looked at where they are added up.
        return "", self._shards is None and not all_finite(gradients)

    def _told_by_all(self, number: int, flag: bool) -> list[tuple[int, bool]]:
        """What each rank gives, by rank."""
        own = torch.tensor([number, flag], dtype=torch.int64, device=self._device)
        told = [torch.empty_like(own) for _ in range(distributed.get_world_size(self._group))]
        distributed.all_gather(told, own, group=self._group)
        return [(int(number), bool(flag)) for number, flag in (one.tolist() for one in told)]

    def _reduce_gradients(self, counted: int, total: int) -> None:
        """Leave on rank 0 the mean gradient over all ranks' samples; NaN where there are none."""
        for dtype in (torch.float32, torch.float64):
            parameters = [p for p in self._trained if wide_dtype(p) == dtype]
            if not parameters:
                continue
            sums = torch.cat([_sum_of(p, counted).reshape(-1) for p in parameters])
            distributed.reduce(sums, self._source, group=self._group)
            if self._swarm is None:
                continue
            means = torch.split(sums / total, [p.numel() for p in parameters])
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean.view(parameter.shape).to(parameter.dtype)

    def _on_first(self, function: Callable[[SwarmOptimizer], T]) -> T:
        """Call a function on rank 0; all ranks get what it returns, or raise."""
        told: list[Any] = [None]
        failure: BaseException | None = None
        if self._swarm is not None:
            if self._shards is not None:
                self._shards.begin()
            try:
                told[0] = (function(self._swarm), self._swarm.global_step, "")
            except BaseException as exc:
                failure = exc
                told[0] = (None, self._swarm.global_step, f"{type(exc).__name__}: {exc}")
        try:
            value: T
            value, self._global_step, complaint = self._result(told[0])
            if complaint:
                # Rank 0 may have caught up before it failed.
                self._send(everything=True)
                raise RankFailed(complaint)
        finally:
            if failure is not None:
                raise failure
        return value

    def _result(self, told: Any) -> Any:
        """What rank 0 tells at the end of a call; the others follow it until then."""
        if self._shards is None:
            content = [told]
            distributed.broadcast_object_list(content, self._source, group=self._group)
            return content[0]
        if self._swarm is None:
            return self._shards.follow()
        self._shards.end(told)
        return told

    def _send(self, *, everything: bool) -> None:
        """Overwrite all ranks' parameters by rank 0's, and the buffers where everything is new."""
        # Of a sharded model all has gone to the ranks already.
        if self._shards is None:
            self._broadcast(self._unsharded if everything else self._trained)

    def _broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            content = tensor.detach().contiguous()
            distributed.broadcast(content, self._source, group=self._group)
            if self._swarm is None:
                tensor.detach().copy_(content)

    @property
    def _device(self) -> torch.device:
        """Where this rank computes."""
        return self._trained[0].device


def _shards_of(
    optimizer: torch.optim.Optimizer, model: nn.Module, group: distributed.ProcessGroup | None
) -> Shards | None:
    """This rank's slices of a sharded model; rank 0's optimizer has made them already."""
    if not is_sharded(model):
        return None
    shards = optimizer.shards if isinstance(optimizer, SwarmOptimizer) else None
    shards = shards or Shards(model, optimizer)
    sharded_over = distributed.get_process_group_ranks(shards.group)
    ranks = distributed.get_process_group_ranks(group or distributed.group.WORLD)
    if sharded_over != ranks:
        raise ValueError(
            f"the model is sharded over the ranks {sharded_over}, and this peer has {ranks}; "
            "give fully_shard() a mesh of all ranks of the peer, and this the same group"
        )
    return shards


def _sum_of(parameter: nn.Parameter, counted: int) -> torch.Tensor:
    """The gradients of so many samples; zeros where there are none or they do not count."""
    if parameter.grad is None or not counted:
        return torch.zeros_like(parameter, dtype=wide_dtype(parameter))
    gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
    return gradient.to(wide_dtype(parameter)) * counted
