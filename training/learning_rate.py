"""How the learning rate follows the global batch, beside any scheduler.

The rates in the optimizer's groups are what the user and the scheduler say they are, for the first
global batch. Only while the optimizer steps are they multiplied by the rule's factor for this
step's batch; afterwards the very same objects are back. So schedulers, which read and overwrite
them, state_dict() and logs never see the factor, and nothing is multiplied twice. The factor
follows from the global step's target, which all peers know alike, not from what was delivered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

LrRule = Literal["constant", "linear", "sqrt"]


def check_lr_rule(rule: str) -> None:
    """Raise ValueError unless there is such a rule."""
    if rule not in get_args(LrRule):
        raise ValueError(f"lr_rule must be one of {', '.join(get_args(LrRule))}, not {rule!r}")


def rate_factor(rule: LrRule, *, samples: int, first: int) -> float:
    """What the rate is multiplied by for a global batch of so many samples.

    `linear` suits SGD, `sqrt` Adam and its kin; `constant` leaves the rate alone.

    Args:
        first: the batch of the first step, for which the rate was chosen.

    Source: P. Goyal et al., Accurate, Large Minibatch SGD (2017), section 2.1, for `linear`;
    S. Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (2022),
    section 4, for `sqrt`.
    """
    if rule == "linear":
        return samples / first
    if rule == "sqrt":
        return math.sqrt(samples / first)
    return 1.0


@contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Multiply the learning rate of each group while the block lasts."""
    if factor == 1.0:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
