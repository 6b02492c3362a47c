"""The learning rate and the clipping of each global step, set while the step is taken.

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
    """From now on scale the rates and clip the gradient while this optimizer steps.

    Afterwards its groups have their own rates again. So the factor is never multiplied twice, a
    checkpoint holds the recipe's rates, and whatever else scales the rates of a step may do so.

    Args:
        optimizer: the one that is wrapped, whose gradients are the swarm's average.
        global_step: how many global steps were taken before the one at hand.
    """
    own_rates: list[Any] = []

    def before_step(stepping: torch.optim.Optimizer, *_: Any) -> None:
        factor = rate_factor(recipe.schedule, step=global_step(), steps=recipe.steps)
        own_rates[:] = [group["lr"] for group in stepping.param_groups]
        for group in stepping.param_groups:
            group["lr"] = group["lr"] * factor
        if recipe.clip_norm:
            parameters = [p for group in stepping.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)

    def after_step(stepping: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(stepping.param_groups, own_rates, strict=True):
            group["lr"] = rate

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)
