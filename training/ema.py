"""A running mean of the parameters, which often does better on test data than the last ones.

It decays by global steps: a peer that took over several steps at once decays as often as the
others did. Each peer keeps its own; one that joins late begins with the parameters it took over.

Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992, as an
exponential mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The exponential mean of a model's parameters, in their dtype and on their device."""

    def __init__(self, model: nn.Module, *, decay: float, step: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a decay is at least 0 and below 1, not {decay}")
        self._parameters = dict(model.named_parameters())
        self._decay = decay
        self._step = step
        self._means = {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self, step: int) -> None:
        """The model has reached this global step; nothing happens when it was counted already."""
        passed = step - self._step
        self._step = step
        if passed <= 0:
            return
        with torch.no_grad():
            for name, mean in self._means.items():
                mean.lerp_(self._parameters[name].detach(), 1 - self._decay**passed)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has the mean's parameters while the block lasts, and then its own again."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._fill(self._means)
        try:
            yield
        finally:
            self._fill(own)

    def state_dict(self) -> dict[str, Any]:
        """The means and the global step that they belong to."""
        return {"step": self._step, "means": dict(self._means)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what state_dict() gave.

        Raises:
            ValueError: it is that of another model.
        """
        means = state_dict["means"]
        shapes = {name: mean.shape for name, mean in means.items()}
        if shapes != {name: mean.shape for name, mean in self._means.items()}:
            raise ValueError("the means are those of another model")
        self._step = int(state_dict["step"])
        for name, mean in self._means.items():
            mean.copy_(means[name])

    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(values[name])
