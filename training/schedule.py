"""The learning rate and the clipping of each global step, set just before the step is taken.

Both go by the number of the global step, which all peers share: so a latecomer, a resumed peer and
one that applies rounds it missed step at the same rate as the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from training.recipe import Recipe, ScheduleRecipe


def rate_factor(schedule: ScheduleRecipe, *, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in a global step, counted from 0.

    In the warm-up it rises in equal parts to 1, which the last step of the warm-up has. Then it
    stays there, or falls linearly or as half a cosine to `final`, which is reached after the last
    step.

    Args:
        steps: the length of the whole run, for a schedule that gives no length of its own.
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    falling = (schedule.steps or steps) - schedule.warmup
    done = min(1.0, (step - schedule.warmup) / falling) if falling > 0 else 1.0
    match schedule.name:
        case "constant":
            return 1.0
        case "linear":
            share = 1.0 - done
        case "cosine":
            share = (1.0 + math.cos(math.pi * done)) / 2
    return schedule.final + (1.0 - schedule.final) * share


def steer(optimizer: torch.optim.Optimizer, recipe: Recipe, global_step: Callable[[], int]) -> None:
    """From now on set the rate and clip the gradient before each step of this optimizer.

    Args:
        optimizer: the one that is wrapped, whose gradients are the swarm's average; the rates that
            its groups have now are those of the factor 1.
        global_step: how many global steps were taken before the one at hand.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    def before_step(stepping: torch.optim.Optimizer, *_: Any) -> None:
        factor = rate_factor(recipe.schedule, step=global_step(), steps=recipe.steps)
        for group, rate in zip(stepping.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if recipe.clip_norm:
            parameters = [p for group in stepping.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)

    optimizer.register_step_pre_hook(before_step)
