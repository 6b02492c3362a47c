"""What all plug-ins share: counting samples, clipping after averaging, rates by the global step."""

from __future__ import annotations

import copy
from collections import UserDict, namedtuple
from typing import Any

import pytest
import torch

from tests.training.plugins.lines import Line, Points, momentum
from training import join
from training.plugins.foreign import ForeignOptimizer, clip_averaged, first_dimension
from training.plugins.schedule import GlobalStepSchedule

Pair = namedtuple("Pair", "label inputs")


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(5, 2),
        {"name": "x", "inputs": torch.zeros(5)},
        UserDict(inputs=torch.zeros(5, 1)),
        [torch.zeros(5, 3), torch.zeros(7)],
        Pair("x", (torch.tensor(1.0), torch.zeros(5))),
    ],
)
def test_the_first_dimension_of_the_first_tensor_counts(batch: Any) -> None:
    assert first_dimension(batch) == 5


@pytest.mark.parametrize("batch", [None, "text", {}, [torch.tensor(3.0)], 7])
def test_a_batch_without_a_dimension_is_told(batch: Any) -> None:
    with pytest.raises(ValueError, match="count="):
        first_dimension(batch)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"norm": 1.0}, [0.6, 0.8]), ({"value": 3.5}, [3.0, 3.5]), ({"norm": 10.0}, [3.0, 4.0])],
)
def test_the_gradient_is_clipped_as_the_optimizer_steps(
    limits: dict[str, float], expected: list[float]
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    clip_averaged(optimizer, **limits)
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert (-parameter).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_schedule_is_where_it_should_be_however_often_it_is_stepped() -> None:
    optimizer = momentum(Line())
    # Recursive: a step too many could not be taken back.
    plain = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    position = 0
    schedule = GlobalStepSchedule(plain, lambda: position)
    rates = []
    for position in (0, 0, 1, 1, 4, 3, 5):  # noqa: B007 – the schedule looks at it
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05 * 0.5**n for n in (0, 0, 1, 1, 4, 4, 5)])
    assert schedule.get_last_lr() == [rates[-1]]
    assert copy.copy(schedule).last_epoch == 5
    schedule.load_state_dict(schedule.state_dict() | {"last_epoch": 9})
    assert schedule.last_epoch == 9


def test_a_step_takes_what_was_counted_since_it_began() -> None:
    model, points = Line(), Points()

    def backward() -> torch.Tensor:
        loss: torch.Tensor = model(points.inputs[:8], points.wanted[:8])["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with join("lines") as swarm:
        shared = swarm.optimizer(momentum(model), model=model, global_batch=24)
        optimizer = ForeignOptimizer(shared)
        assert swarm.global_batch == shared.global_batch == 24
        optimizer.count(100)
        optimizer.begin()  # the framework skipped that step
        optimizer.count(8)
        optimizer.count(8)
        assert optimizer.step(backward) is not None
        assert optimizer.report is not None
        assert (optimizer.report.samples, optimizer.report.stepped) == (16, False)
        optimizer.count(8)
        assert optimizer.step(lambda: None) is None, "nothing was computed"
        backward()
        with pytest.raises(ValueError, match="number of samples"):
            optimizer.step()
        optimizer.count(8)
        assert optimizer.step() is None
        assert optimizer.report.stepped
        again = ForeignOptimizer(shared)
        again.load_state_dict(optimizer.state_dict())
        assert shared.global_step == 1
        assert again.param_groups is optimizer.param_groups
        assert set(again.state) == set(model.parameters())
        with pytest.raises(ValueError, match="before"):
            again.add_param_group({"params": []})
