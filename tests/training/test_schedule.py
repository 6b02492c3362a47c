"""Rates and clipping go by the global step, also for a peer that applies rounds it missed."""

import math

import msgspec
import pytest
import torch
from torch import nn

from training.recipe import Recipe, ScheduleRecipe, load_recipe
from training.schedule import rate_factor, steer


def factors(schedule: ScheduleRecipe, count: int, steps: int = 10) -> list[float]:
    return [rate_factor(schedule, step=step, steps=steps) for step in range(count)]


def test_constant_after_its_warm_up() -> None:
    schedule = ScheduleRecipe(name="constant", warmup=4)
    assert factors(schedule, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors(ScheduleRecipe(name="constant"), 3) == [1.0, 1.0, 1.0]


def test_linear_ends_after_the_last_step() -> None:
    schedule = ScheduleRecipe(name="linear", warmup=2, steps=6)
    assert factors(schedule, 8) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert factors(ScheduleRecipe(name="linear"), 4, steps=4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_and_what_is_left_at_the_end() -> None:
    schedule = ScheduleRecipe(name="cosine", warmup=1, steps=9, final=0.1)
    for step, factor in enumerate(factors(schedule, 9)):
        done = max(0, step - 1) / 8
        assert factor == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
    assert factors(schedule, 20)[9:] == pytest.approx([0.1] * 11)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    schedule = ScheduleRecipe(name="linear", warmup=100)
    assert factors(schedule, 10) == pytest.approx([(step + 1) / 100 for step in range(10)])
    assert rate_factor(ScheduleRecipe(name="linear", warmup=5, steps=5), step=5, steps=5) == 0.0


def recipe(**changes: object) -> Recipe:
    return msgspec.structs.replace(load_recipe("digits"), **changes)


def test_each_group_keeps_its_own_rate() -> None:
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [one], "lr": 1.0}, {"params": [other], "lr": 10.0}]
    optimizer = torch.optim.SGD(groups)
    now = [0]
    steer(
        optimizer,
        recipe(schedule=ScheduleRecipe(name="linear", warmup=2), steps=4),
        lambda: now[0],
    )
    moved = []
    for now[0] in (0, 1, 3, 3, 0):  # a rate depends on the step alone, not on what was before
        before = one.detach().clone(), other.detach().clone()
        one.grad, other.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
        moved.append(
            [float((b - p.detach())[0]) for b, p in zip(before, (one, other), strict=True)]
        )
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 10.0]
    assert moved == [[0.5, 5.0], [1.0, 10.0], [0.5, 5.0], [0.5, 5.0], [0.5, 5.0]]


def test_a_long_gradient_is_cut_as_a_whole_and_a_short_one_is_not() -> None:
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([one, other], lr=1.0)
    steer(optimizer, recipe(clip_norm=1.0), lambda: 0)
    one.grad, other.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert [-one.item(), -other.item()] == pytest.approx([0.6, 0.8], rel=1e-5)
    one.grad, other.grad = torch.tensor([0.3]), torch.tensor([0.4])
    optimizer.step()
    assert [-one.item(), -other.item()] == pytest.approx([0.9, 1.2], rel=1e-5)
