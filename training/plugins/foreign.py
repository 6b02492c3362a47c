"""ForeignOptimizer: what a framework takes for its optimizer and steps without naming samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from training.optimizer import SwarmOptimizer
from training.step_report import StepReport

CountSamples = Callable[[Any], int]
"""How many samples a micro-batch weighs; the global batch is counted in the same unit."""


class ForeignOptimizer(torch.optim.Optimizer):
    """A SwarmOptimizer behind the plain step() that frameworks call.

    The plug-in says what was computed, with begin() and count(); the next step() hands it on.
    """

    def __init__(self, shared: SwarmOptimizer) -> None:
        self.shared = shared
        # As in SwarmOptimizer: groups and state are those of the optimizer inside.
        super().__setstate__({"defaults": shared.defaults})
        self.report: StepReport | None = None
        """Of the last step(); None before the first."""
        self.contributed = 0
        """Samples of ours in all global steps since this began."""
        self._samples = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of the optimizer inside."""
        return self.shared.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """That of the optimizer inside."""
        return self.shared.state

    def begin(self) -> None:
        """Gradients are accumulated anew; forget samples of a step that the framework skipped."""
        self._samples = 0

    def count(self, samples: int) -> None:
        """Gradients of so many samples are added before the next step()."""
        self._samples += samples

    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor | None] | None = None
    ) -> torch.Tensor | None:
        """Hand the gradients on; what came of it is in `report`.

        Args:
            closure: computes the gradients, and returns the loss, or None when it computed none.

        Raises:
            ValueError, SpecDiffers, CatchUpFailed, SwarmStuck: as SwarmOptimizer.step() does.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if loss is None:
                self._samples = 0
                return None
        samples, self._samples = self._samples, 0
        self.report = self.shared.step(samples=samples)
        if self.report.stepped:
            self.contributed += self.report.samples
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the parameters' gradients; what was accumulated for the swarm stays."""
        self.shared.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The SwarmOptimizer's."""
        return self.shared.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a SwarmOptimizer's or a plain optimizer's state."""
        self.shared.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused, as by SwarmOptimizer."""
        self.shared.add_param_group(param_group)


def first_dimension(batch: Any) -> int:
    """The size of the first dimension of the first tensor in a batch, however it is nested.

    Raises:
        ValueError: there is no tensor that has a dimension.
    """
    for tensor in _tensors(batch):
        if tensor.dim() > 0:
            return len(tensor)
    raise ValueError(
        f"cannot tell how many samples are in a batch of type {type(batch).__name__}; "
        "give the plug-in a function count=… that says it"
    )


def clip_averaged(
    optimizer: torch.optim.Optimizer, *, norm: float | None = None, value: float | None = None
) -> None:
    """Clip the swarm's gradient just before the optimizer steps with it.

    A clipped mean is what one machine would step with; the mean of clipped gradients is not.

    Args:
        norm: the most that the norm over all parameters may be.
        value: the most that each element may be.
    """

    def clip(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters: list[nn.Parameter] = [
            parameter for group in stepping.param_groups for parameter in group["params"]
        ]
        if norm is not None:
            nn.utils.clip_grad_norm_(parameters, norm)
        if value is not None:
            nn.utils.clip_grad_value_(parameters, value)

    optimizer.register_step_pre_hook(clip)


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from _tensors(item)
    elif isinstance(batch, Iterable) and not isinstance(batch, str | bytes):
        for item in batch:
            yield from _tensors(item)
