"""LARS: momentum SGD whose gradient is scaled for each tensor to the length of that tensor.

For a parameter w with averaged gradient g:

    s = trust · ‖w‖ / (‖g‖ + decay·‖w‖ + ε)        1 where ‖w‖ or ‖g‖ is 0
    b = momentum·b + s·(g + decay·w)
    w = w − rate·b

The rate stands outside of the momentum, as in PyTorch's SGD: a schedule then acts at once. In the
first publication it stands inside; with a constant rate that is the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from training.optimizers.per_parameter import PerParameterOptimizer


class Lars(PerParameterOptimizer):
    """Layer-wise adaptive rates for large batches.

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
    algorithm 1; order of rate and momentum, and defaults, as in the SwAV runs of Diskin et al.,
    "Distributed Deep Learning in Open Collaborations", 2021.

    Args:
        weight_decay: how much of a parameter is added to its gradient.
        trust_coefficient: the length of a step as a share of the length of the parameter.
        exclude_1d: parameters of one dimension, which are biases and scales of norms, are neither
            decayed nor scaled.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        exclude_1d: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, not {momentum}")
        if not 0 < trust_coefficient < math.inf:
            raise ValueError(f"trust_coefficient must be above 0, not {trust_coefficient}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "exclude_1d": exclude_1d,
        }
        super().__init__(params, defaults)

    @staticmethod
    def update(
        parameter: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """One parameter and its momentum, changed in place; the gradient stays as it is."""
        update = gradient.clone()
        if parameter.ndim > 1 or not group["exclude_1d"]:
            decay = group["weight_decay"]
            # Without looking at the numbers here, so that an accelerator need not be waited for.
            weight_norm = torch.linalg.vector_norm(parameter)
            gradient_norm = torch.linalg.vector_norm(gradient)
            length = gradient_norm + decay * weight_norm + group["eps"]
            scale = group["trust_coefficient"] * weight_norm / length
            update.add_(parameter, alpha=decay)
            update.mul_(torch.where((weight_norm > 0) & (gradient_norm > 0), scale, 1.0))
        if not state:
            state["momentum_buffer"] = torch.zeros_like(
                parameter, memory_format=torch.preserve_format
            )
        momentum = state["momentum_buffer"]
        momentum.mul_(group["momentum"]).add_(update)
        parameter.sub_(momentum, alpha=group["lr"])
