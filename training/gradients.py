"""Gradients, summed over micro-batches until the swarm has a global batch.

Each micro-batch brings the gradient of its mean loss; times its samples it is the sum over them, so
the sums of all peers, divided by all their samples, are what one machine would compute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from averaging import TensorSpec
from training.finite import all_finite
from training.learning_rate import scaled_rates
from training.model_state import Array


class Gradients:
    """Sums of gradients, beside the parameters' own; float32, or float64 where a parameter is."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        if not parameters:
            raise ValueError("the optimizer has no parameter that requires a gradient")
        for name, parameter in parameters.items():
            if not parameter.is_floating_point():
                raise ValueError(f"parameter {name!r} is {parameter.dtype}; it must be a float")
        self._parameters = dict(parameters)
        self._sums: dict[str, torch.Tensor] = {}
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
        found = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        if not found:
            raise ValueError(
                "no parameter has a gradient; call loss.backward() before step(), and check that "
                "the optimizer holds the parameters of the model that computed the loss"
            )
        finite = all_finite(found.values())
        with torch.no_grad():
            for name, gradient in found.items():
                if finite:
                    self._sum_of(name, self._parameters[name]).add_(gradient, alpha=samples)
                self._parameters[name].grad = None
        self.samples += samples * finite
        return finite

    def means(self) -> dict[str, Array]:
        """The mean gradient over all samples, as arrays that a round may overwrite."""
        staging = self._staging or self.zeros()
        self._staging = staging
        for name, array in staging.items():
            if self.samples == 0 or name not in self._sums:
                array.fill(0)
            else:
                np.divide(self._sums[name].cpu().numpy(), self.samples, out=array)
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
        for name, parameter in self._parameters.items():
            gradient = torch.from_numpy(means[name]).to(parameter.device, parameter.dtype)
            parameter.grad = gradient
        with scaled_rates(optimizer, factor):
            optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None

    def restore(self, means: Mapping[str, Array], samples: int) -> None:
        """Take back what means() gave and clear() dropped, beside what came since."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                mean = torch.from_numpy(means[name]).to(parameter.device)
                self._sum_of(name, parameter).add_(mean, alpha=samples)
        self.samples += samples

    def clear(self) -> None:
        """Begin the next global batch."""
        for total in self._sums.values():
            total.zero_()
        self.samples = 0

    def _sum_of(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(
                parameter, dtype=_torch_dtype(parameter), memory_format=torch.preserve_format
            )
        return self._sums[name]

    def forget_staging(self) -> None:
        """Never touch the last means() again: a round that was given up may still read them."""
        self._staging = None


def _torch_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _numpy_dtype(parameter: torch.Tensor) -> str:
    return "float64" if parameter.dtype == torch.float64 else "float32"
