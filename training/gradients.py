"""Gradients, summed over micro-batches until the swarm has a global batch.

Each micro-batch brings the gradient of its mean loss; times its samples it is the sum over them, so
the sums of all peers, divided by all their samples, are what one machine would compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import nn

from averaging import TensorSpec
from training.finite import all_finite
from training.learning_rate import scaled_rates
from training.model_state import Array


class GradientHolder(Protocol):
    """Where sums of gradients lie, and what lets an optimizer step with their means.

    Means come as tensors on the CPU, in the dtype of the sums.
    """

    def add(self, samples: int) -> bool:
        """Take over the parameters' gradients times samples; False where one is not finite."""

    def each_sum(self, function: Callable[[str, torch.Tensor], None]) -> None:
        """Call a function with the parameter's name and each sum that there is."""

    def step(
        self, means: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, factor: float
    ) -> None:
        """One step of the optimizer with these gradients, at `factor` times the rates."""

    def restore(self, means: Mapping[str, torch.Tensor], samples: int) -> None:
        """Add means times samples to the sums."""

    def clear(self) -> None:
        """Set the sums to zero."""


class Gradients:
    """Sums of gradients, beside the parameters' own; float32, or float64 where a parameter is.

    Args:
        holder: where they lie; beside the parameters, unless told.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], holder: GradientHolder | None = None
    ) -> None:
        if not parameters:
            raise ValueError("the optimizer has no parameter that requires a gradient")
        for name, parameter in parameters.items():
            if not parameter.is_floating_point():
                raise ValueError(f"parameter {name!r} is {parameter.dtype}; it must be a float")
        self._parameters = dict(parameters)
        self._holder = holder or _OwnGradients(self._parameters)
        self._staging: dict[str, Array] | None = None
        self.samples = 0
        """How many samples are in the sums."""
        self.spec = TensorSpec.of(
            {
                name: np.broadcast_to(np.zeros((), _numpy_dtype(parameter)), parameter.shape)
                for name, parameter in parameters.items()
            }
        )
        """What is averaged."""

    def add(self, samples: int) -> bool:
        """Take over the parameters' gradients, of the mean loss over so many samples.

        They are removed from the parameters, so nothing is counted twice where zero_grad() is
        forgotten. A parameter that the loss did not reach adds nothing.

        Returns:
            False where a number is infinite or none: then nothing was added, since it would spoil
            the sums, and with them the round of all.

        Raises:
            ValueError: no parameter has a gradient.
        """
        if all(parameter.grad is None for parameter in self._parameters.values()):
            raise ValueError(
                "no parameter has a gradient; call loss.backward() before step(), and check that "
                "the optimizer holds the parameters of the model that computed the loss"
            )
        finite = self._holder.add(samples)
        self.samples += samples * finite
        return finite

    def means(self) -> dict[str, Array]:
        """The mean gradient over all samples, as arrays that a round may overwrite."""
        staging = self._staging or self.zeros()
        self._staging = staging
        missing = dict(staging)

        def divide(name: str, total: torch.Tensor) -> None:
            np.divide(total.cpu().numpy(), self.samples, out=missing.pop(name))

        if self.samples:
            self._holder.each_sum(divide)
        for array in missing.values():
            array.fill(0)
        return staging

    def zeros(self) -> dict[str, Array]:
        """New arrays for a round to fill."""
        return {
            name: np.zeros(parameter.shape, _numpy_dtype(parameter))
            for name, parameter in self._parameters.items()
        }

    def apply(
        self, means: Mapping[str, Array], optimizer: torch.optim.Optimizer, *, factor: float = 1.0
    ) -> None:
        """One optimizer step with these gradients, at `factor` times the learning rates."""
        self._holder.step(self._tensors(means), optimizer, factor)

    def restore(self, means: Mapping[str, Array], samples: int) -> None:
        """Take back what means() gave and clear() dropped, beside what came since."""
        self._holder.restore(self._tensors(means), samples)
        self.samples += samples

    def clear(self) -> None:
        """Begin the next global batch."""
        self._holder.clear()
        self.samples = 0

    def forget_staging(self) -> None:
        """Never touch the last means() again: a round that was given up may still read them."""
        self._staging = None

    def _tensors(self, means: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(means[name]) for name in self._parameters}


class _OwnGradients:
    """The holder of a model that this process has whole: sums lie beside the parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, samples: int) -> bool:
        found = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        finite = all_finite(found.values())
        with torch.no_grad():
            for name, gradient in found.items():
                if finite:
                    self._sum_of(name).add_(gradient, alpha=samples)
                self._parameters[name].grad = None
        return finite

    def each_sum(self, function: Callable[[str, torch.Tensor], None]) -> None:
        for name, total in self._sums.items():
            function(name, total)

    def step(
        self, means: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, factor: float
    ) -> None:
        for name, parameter in self._parameters.items():
            parameter.grad = means[name].to(parameter.device, parameter.dtype)
        with scaled_rates(optimizer, factor):
            optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None

    def restore(self, means: Mapping[str, torch.Tensor], samples: int) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._sum_of(name).add_(means[name].to(parameter.device), alpha=samples)

    def clear(self) -> None:
        for total in self._sums.values():
            total.zero_()

    def _sum_of(self, name: str) -> torch.Tensor:
        if name not in self._sums:
            parameter = self._parameters[name]
            self._sums[name] = torch.zeros_like(
                parameter, dtype=wide_dtype(parameter), memory_format=torch.preserve_format
            )
        return self._sums[name]


def wide_dtype(parameter: torch.Tensor) -> torch.dtype:
    """What sums of its gradients are kept in."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _numpy_dtype(parameter: torch.Tensor) -> str:
    return "float64" if parameter.dtype == torch.float64 else "float32"
