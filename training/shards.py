"""Shards: a model that fully_shard() has divided over the ranks of a peer, read and written whole.

Rank 0 speaks to the swarm, which knows whole tensors only. Each rank keeps a slice of every
parameter, of its sum of gradients and of its moments, and steps that slice with an optimizer of its
own. So while rank 0 is in a call, the other ranks follow: they do what it says, one command after
the other, until it says how the call ended.

    rank 0                                         the other ranks, in follow()
    each(tensors, function)     ── command ──▶     a rank gives its slice of each
      function(whole)          ◀── gather ───
    step(means)                 ── command ──▶     a rank takes its slice of each mean,
      whole mean                ── scatter ──▶     then all let their optimizers step
    end(result)                 ── result ───▶     follow() returns it

Tensors go one by one, so on its device no rank ever holds more than one of them whole. What is kept
whole, such as the means of a round and a snapshot for a newcomer, lies in rank 0's main memory.

Tensors have the names that ModelState gives them: parameter/<name>, moment/<name>/<key>; the sum of
a parameter's gradients is sum/<name>.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from training.errors import RankFailed
from training.finite import all_finite
from training.gradients import wide_dtype
from training.learning_rate import scaled_rates
from training.model_state import Kept, load_kept, optimized_names
from training.sharding import bytes_of, check_kept, gather, group_of, mesh_of, scatter, slice_of

T = TypeVar("T")


@dataclass(frozen=True)
class _Command:
    """What a rank is to do."""

    method: str
    arguments: tuple[Any, ...]


class Shards:
    """This rank's slices of a model; made by all ranks at once, with models and optimizers alike.

    What rank 0 calls needs the others in follow(). The methods that begin with an underscore and
    are named in commands run on all ranks alike.

    Args:
        model: what it trains is sharded by fully_shard(), all over one mesh of one dimension.
        optimizer: of this rank's parameters, made after fully_shard(); steps this rank's slices.

    Raises:
        ValueError: it is sharded otherwise, or the ranks have different models or optimizers.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        if not self._modules:
            raise ValueError(
                "the model is divided over ranks, but not by fully_shard(); tensor parallelism is "
                "not supported inside a peer"
            )
        self._reshard()
        self._optimizer = optimizer
        self._parameters = dict(sorted(model.named_parameters()))
        self._buffers = dict(sorted(model.named_buffers()))
        self._optimized = optimized_names(optimizer, self._parameters)
        self._sharded = {n: p for n, p in self._parameters.items() if isinstance(p, DTensor)}
        self._trained = {
            name: parameter
            for name, parameter in self._parameters.items()
            if name in self._optimized and parameter.requires_grad
        }
        self._ranks = mesh_of(self._sharded, self._trained).size()
        self.group, self._source = group_of(next(iter(self._sharded.values())))
        """The peer's process group, and its rank 0."""
        self.first = distributed.get_rank(self.group) == 0
        """Whether this is rank 0, which gives commands."""
        self.followed = True
        """Whether the other ranks are in follow(), as far as rank 0 knows."""
        self._sums: dict[str, DTensor] = {}
        self._failure: Exception | None = None
        self._compare_ranks()

    # --- the end of a call ---

    def begin(self) -> None:
        """All ranks have agreed on a call, and the others go into follow() (rank 0)."""
        self.followed = True

    def end(self, result: object) -> None:
        """Let the other ranks go (rank 0)."""
        self.followed = False
        distributed.broadcast_object_list([result], self._source, group=self.group)

    def follow(self) -> Any:
        """Do what rank 0 says until it ends the call; returns the result (the other ranks).

        Raises:
            Exception: what this rank's optimizer raised; rank 0 has failed, too.
        """
        said: list[Any] = [None]
        while True:
            distributed.broadcast_object_list(said, self._source, group=self.group)
            if not isinstance(said[0], _Command):
                break
            getattr(self, said[0].method)(*said[0].arguments)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return said[0]

    # --- whole tensors (rank 0) ---

    def each(
        self, tensors: Mapping[str, torch.Tensor], function: Callable[[torch.Tensor], T]
    ) -> dict[str, T]:
        """What a function says of each tensor, which it is given whole, on its device.

        Args:
            tensors: by their names; what is not sharded is passed on as it is.
        """
        self._command("_give", [n for n, t in tensors.items() if isinstance(t, DTensor)])
        said: dict[str, T] = {}
        failure: Exception | None = None
        for name, tensor in tensors.items():
            whole = gather(tensor) if isinstance(tensor, DTensor) else tensor
            # The others give all of them, whatever happens here.
            if failure is None:
                try:
                    said[name] = function(whole)
                except Exception as exc:
                    failure = exc
        if failure is not None:
            raise failure
        return said

    def fill(self, sources: Mapping[str, torch.Tensor]) -> None:
        """Overwrite all ranks' tensors, each by a whole one of the same shape."""
        names = list(sources)
        self._command("_take", names)
        self._take(names, sources)

    def load_kept(self, kept: Kept) -> None:
        """Give all ranks' optimizers their slices of what an optimizer keeps."""
        whole: dict[str, torch.Tensor] = {}
        sliced: list[tuple[str, str, torch.dtype]] = []
        rest: Kept = {}
        for name, values in kept.items():
            for key, value in values.items():
                sharded = name in self._sharded and isinstance(value, torch.Tensor)
                if sharded and value.shape == self._sharded[name].shape:
                    whole[f"moment/{name}/{key}"] = value
                    sliced.append((name, key, value.dtype))
                else:
                    rest.setdefault(name, {})[key] = value
        self._command("_load_kept", sliced, rest)
        self._load_kept(sliced, rest, whole)

    # --- gradients (rank 0): what Gradients wants of its holder ---

    def add(self, samples: int) -> bool:
        """As Gradients.add(), with each rank's slice of the gradient that FSDP has averaged."""
        self._command("_add", samples)
        finite, differing = self._add(samples)
        if differing:
            raise ValueError(
                f"parameter {differing!r} has a gradient on some ranks only; let all ranks "
                "compute with the same parts of a sharded model"
            )
        return finite

    def each_sum(self, function: Callable[[str, torch.Tensor], None]) -> None:
        """Call a function with the name and the whole sum of each parameter that has one."""
        names = iter(self._sums)
        self.each(
            {f"sum/{name}": total for name, total in self._sums.items()},
            lambda whole: function(next(names), whole),
        )

    def step(
        self, means: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, factor: float
    ) -> None:
        """One step of all ranks' optimizers, with rank 0's learning rates and the like.

        Hyperparameters that are tensors are each rank's own.

        Raises:
            ValueError: it keeps what cannot be told from a rank's slice of a whole.
            RankFailed: another rank's optimizer raised an error.
        """
        assert optimizer is self._optimizer
        groups = [
            {
                key: value
                for key, value in group.items()
                if key != "params" and not isinstance(value, torch.Tensor)
            }
            for group in optimizer.param_groups
        ]
        self._command("_step", groups, factor)
        self._step(groups, factor, means)

    def restore(self, means: Mapping[str, torch.Tensor], samples: int) -> None:
        """Add means times samples to the sums."""
        self._command("_restore", samples)
        self._restore(samples, means)

    def clear(self) -> None:
        """Begin new sums."""
        self._command("_clear")
        self._clear()

    # --- what all ranks do ---

    def _give(self, names: list[str]) -> None:
        for name in names:
            tensor = self._tensor(name)
            assert isinstance(tensor, DTensor), name
            gather(tensor)

    def _take(self, names: list[str], sources: Mapping[str, torch.Tensor] | None = None) -> None:
        self._reshard()
        with torch.no_grad():
            for name in names:
                tensor = self._tensor(name)
                source = None if sources is None else sources[name]
                if isinstance(tensor, DTensor):
                    tensor.to_local().copy_(scatter(tensor, tensor.dtype, source))
                    continue
                content = tensor.detach().contiguous() if source is None else source
                # NCCL moves nothing that lies on the CPU, such as AdamW's count of steps.
                content = content.to(self._device, tensor.dtype)
                distributed.broadcast(bytes_of(content), self._source, group=self.group)
                tensor.copy_(content)

    def _load_kept(
        self,
        sliced: list[tuple[str, str, torch.dtype]],
        rest: Kept,
        whole: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        kept = {name: dict(values) for name, values in rest.items()}
        for name, key, dtype in sliced:
            parameter = self._sharded[name]
            source = None if whole is None else whole[f"moment/{name}/{key}"]
            own = scatter(parameter, dtype, source)
            kept.setdefault(name, {})[key] = slice_of(parameter, own)
        self._agreeing(lambda: load_kept(self._optimizer, self._optimized, self._parameters, kept))

    def _add(self, samples: int) -> tuple[bool, str]:
        """Whether all is finite, and which parameter not all ranks have a gradient of."""
        gradients = {n: p.grad for n, p in self._trained.items() if p.grad is not None}
        for parameter in self._trained.values():
            parameter.grad = None
        local = {
            name: gradient.to_local()
            for name, gradient in gradients.items()
            if isinstance(gradient, DTensor)
        }
        # How many ranks have each gradient, and how many have only finite ones.
        seen = [*(name in local for name in self._trained), all_finite(local.values())]
        counts = torch.tensor(seen, dtype=torch.int64, device=self._device)
        distributed.all_reduce(counts, group=self.group)
        *having, finite = counts.tolist()
        for name, count in zip(self._trained, having, strict=True):
            if count not in (0, self._ranks):
                return False, name
        if finite < self._ranks:
            return False, ""
        with torch.no_grad():
            for name, gradient in local.items():
                self._sum_of(name).to_local().add_(gradient, alpha=samples)
        return True, ""

    def _step(
        self,
        groups: list[dict[str, Any]],
        factor: float,
        means: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._reshard()
        for name, parameter in self._trained.items():
            source = None if means is None else means[name]
            own = scatter(self._sharded[name], parameter.dtype, source)
            parameter.grad = slice_of(self._sharded[name], own)
        for group, values in zip(self._optimizer.param_groups, groups, strict=True):
            group.update(values)

        def step() -> None:
            with scaled_rates(self._optimizer, factor):
                self._optimizer.step()
            check_kept(self._optimizer, self._sharded)

        self._agreeing(step)
        for parameter in self._trained.values():
            parameter.grad = None

    def _restore(self, samples: int, means: Mapping[str, torch.Tensor] | None = None) -> None:
        for name in self._trained:
            total = self._sum_of(name)
            source = None if means is None else means[name]
            total.to_local().add_(scatter(total, total.dtype, source), alpha=samples)

    def _clear(self) -> None:
        for total in self._sums.values():
            total.to_local().zero_()

    # --- helpers ---

    @property
    def _device(self) -> torch.device:
        return next(iter(self._sharded.values())).to_local().device

    def _command(self, method: str, *arguments: Any) -> None:
        if not self.followed:
            raise ValueError(
                "a sharded model is read and stepped by all ranks together: call the methods of "
                "RankedOptimizer, on all ranks, and not those of rank 0's own optimizer"
            )
        command = _Command(method, arguments)
        distributed.broadcast_object_list([command], self._source, group=self.group)

    def _agreeing(self, function: Callable[[], None]) -> None:
        """Call what may fail on some ranks, and let all know (all ranks).

        On rank 0 an error of any rank is raised; on the others follow() raises their own.
        """
        failure: Exception | None = None
        try:
            function()
        except Exception as exc:
            failure = exc
        failed = torch.tensor(int(failure is not None), device=self._device)
        distributed.all_reduce(failed, group=self.group)
        if not self.first:
            self._failure = self._failure or failure
        elif failure is not None:
            raise failure
        elif failed:
            raise RankFailed("another rank's optimizer raised an error")

    def _tensor(self, name: str) -> torch.Tensor:
        """The tensor of this name; a moment is what this rank's optimizer keeps."""
        kind, _, rest = name.partition("/")
        if kind == "parameter":
            return self._parameters[rest]
        if kind == "buffer":
            return self._buffers[rest]
        if kind == "sum":
            return self._sums[rest]
        parameter, _, key = rest.rpartition("/")
        moment: torch.Tensor = self._optimizer.state[self._parameters[parameter]][key]
        return moment

    def _sum_of(self, name: str) -> DTensor:
        if name not in self._sums:
            parameter = self._sharded[name]
            zeros = torch.zeros_like(parameter.to_local(), dtype=wide_dtype(parameter))
            self._sums[name] = slice_of(parameter, zeros)
        return self._sums[name]

    def _reshard(self) -> None:
        """Drop whole copies of parameters that a forward pass without a backward left behind."""
        for module in self._modules:
            module.reshard()

    def _compare_ranks(self) -> None:
        """All ranks tell what they have."""
        kind = type(self._optimizer).__name__
        shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        own = (kind, self._optimized, sorted(self._trained), shapes)
        told: list[Any] = [None] * self._ranks
        distributed.all_gather_object(told, own, group=self.group)
        for rank, other in enumerate(told):
            if other != told[0]:
                raise ValueError(
                    f"rank {rank} of this peer has another model or optimizer ({other[0]}) than "
                    f"rank 0 ({told[0][0]}); of a sharded model all ranks step their slices alike"
                )
