"""LAMB: Adam whose step is scaled for each tensor to the length of that tensor.

As in the ALBERT runs of DeDLOC, for a parameter w with averaged gradient g in step t:

    m = β1·m + (1 − β1)·g        v = β2·v + (1 − β2)·g²
    u = m / (√v + ε) + decay·w
    w = w − rate · √(1 − β2ᵗ)/(1 − β1ᵗ) · min(‖w‖, clamp) / ‖u‖ · u

The root fraction is left out without `debias`; the last fraction is 1 where one of its norms is 0.
Nothing is clipped in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from training.optimizers.per_parameter import PerParameterOptimizer

WEIGHT_NORM_MAX = 10_000.0  # clamp_value in DeDLOC's albert/arguments.py


class Lamb(PerParameterOptimizer):
    """Layer-wise adaptive moments for large batches.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    2020, algorithm 2; defaults and the clamped norm as in Diskin et al., "Distributed Deep Learning
    in Open Collaborations", 2021, ALBERT experiments.

    Args:
        eps: added to the root of the second moment.
        weight_decay: how much of a parameter is added to its step before that is scaled.
        clamp_value: the norm of a parameter counts at most so much.
        debias: correct the bias of the moments' first steps, by the rate.
        decay_1d: also decay parameters of one dimension, which are biases and scales of norms.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.00176,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        clamp_value: float = WEIGHT_NORM_MAX,
        debias: bool = True,
        decay_1d: bool = True,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, not {betas}")
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")
        if not 0 < eps < math.inf or not clamp_value > 0:
            raise ValueError(f"eps and clamp_value must be above 0, not {eps} and {clamp_value}")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "clamp_value": clamp_value,
            "debias": debias,
            "decay_1d": decay_1d,
        }
        super().__init__(params, defaults)

    @staticmethod
    def update(
        parameter: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """One parameter and its moments, changed in place; the gradient stays as it is."""
        if not state:
            # A tensor as in PyTorch's own optimizers, whose load_state_dict() treats this key so.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        first_beta, second_beta = group["betas"]
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.mul_(first_beta).add_(gradient, alpha=1 - first_beta)
        square.mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
        update = mean / (square.sqrt() + group["eps"])
        if parameter.ndim > 1 or group["decay_1d"]:
            update.add_(parameter, alpha=group["weight_decay"])
        rate = group["lr"]
        if group["debias"]:
            count = float(state["step"])
            rate *= math.sqrt(1 - second_beta**count) / (1 - first_beta**count)
        # Without looking at the numbers here, so that an accelerator need not be waited for.
        weight_norm = torch.linalg.vector_norm(parameter).clamp(max=group["clamp_value"])
        update_norm = torch.linalg.vector_norm(update)
        trust = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0)
        parameter.sub_(update.mul_(trust), alpha=rate)
