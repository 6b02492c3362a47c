"""The code in the guide to strategies runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from training import Swarm, join
from training.strategies import LeaderSGD

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "strategies.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)


def names(swarm: Swarm) -> dict[str, object]:
    """What the guide takes for given."""
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    model = nn.Linear(3, 2)
    return {
        "torch": torch,
        "swarm": swarm,
        "model": model,
        "loss_fn": nn.functional.mse_loss,
        "loader": [(x, y)] * 3,
        "x": x,
        "y": y,
    }


def test_a_loop_with_a_strategy() -> None:
    with join("test") as swarm:
        space = names(swarm)
        exec(blocks()[0], space)
        assert [(me.step, me.samples) for me in swarm.peers] == [(0, 3)]


def test_a_strategy_with_secure_sums() -> None:
    with join("test") as swarm:
        space = names(swarm)
        exec(blocks()[1], space)
        (me,) = swarm.peers
        assert me.is_me


def test_a_step_of_leader_sgd() -> None:
    with join("test") as swarm:
        space = names(swarm)
        model = space["model"]
        assert isinstance(model, nn.Module)
        wrapped = torch.optim.SGD(model.parameters(), lr=0.1)
        space["optimizer"] = swarm.optimizer(
            wrapped, model=model, strategy=LeaderSGD(every=1, every_of_swarm=1)
        )
        exec(blocks()[2], space)
        assert swarm.global_step == 1


@pytest.mark.slow
def test_a_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks()[3], {})
    loss, sent_bytes, seconds = (float(word) for word in capsys.readouterr().out.split())
    assert 0 < loss < 1
    assert sent_bytes == pytest.approx(4 * 4 * 1.5 * 4 * 6570)
    assert seconds == pytest.approx(8 * sent_bytes / 4 / 20e6)


def test_these_are_all() -> None:
    assert len(blocks()) == 4
