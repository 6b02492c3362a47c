"""The code in the guide to differential privacy runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from averaging import AveragerConfig
from training import LocalOptimizer, SwarmConfig, join
from training.privacy import DpSgd, NoiseShares, PrivacyBudget
from training.recipe import PrivacyRecipe, parse_recipe

GUIDE = (Path(__file__).parents[3] / "docs/guides/differential-privacy.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_private_loop_and_the_group_that_it_needs(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    space: dict[str, object] = {"torch": torch, "model": model, "loss": loss, "steps": 1}
    space |= {"inputs": torch.randn(320, 3), "labels": torch.zeros(320, dtype=torch.int64)}
    loop = blocks("python")[0]
    assert "tolerated_drops=1" in loop
    with join("test") as swarm:
        # Here nobody else is there to add the other shares.
        exec(
            loop.replace("tolerated_drops=1", "tolerated_drops=3"),
            space | {"swarm": swarm, "ledger": tmp_path / "ledger.json"},
        )
        assert swarm.global_step == 1
    assert not torch.equal(before, model.weight)
    kept = PrivacyBudget(epsilon=4.0, delta=1e-5, ledger=tmp_path / "ledger.json")
    assert kept.steps == 4, "alone it brings all four lots"

    shares = NoiseShares(peers=4, tolerated_drops=1)
    space = {"settings": DpSgd(clip=1.0, noise_multiplier=1.0, lot=1, shares=shares)}
    exec(blocks("python")[1], space)
    assert space["config"] == SwarmConfig(averager=AveragerConfig(group_size_min=3))


def test_private_clients() -> None:
    config = SwarmConfig(averager=AveragerConfig(group_size_min=8))
    with join("test", config=config) as swarm:
        space: dict[str, object] = {"torch": torch, "model": nn.Linear(3, 2), "swarm": swarm}
        exec(blocks("python")[2], space)
        optimizer = space["optimizer"]
        assert isinstance(optimizer, LocalOptimizer)
        assert optimizer.budget is not None
        assert (optimizer.budget.epsilon, optimizer.budget.spent) == (8.0, 0.0)


def test_what_a_plan_costs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[3], {})
    cost, multiplier = (float(word) for word in capsys.readouterr().out.split())
    assert f"{cost:.2f}" == "5.63"
    assert 1 < multiplier < 10


def test_the_recipe_is_one_and_all_keys_are_named() -> None:
    recipe = parse_recipe(blocks("toml")[0].encode(), source="guide")
    assert recipe.privacy == PrivacyRecipe(clip=1.0, epsilon=8.0)
    named = set(re.findall(r"`([\w-]+)`", GUIDE))
    assert {field.name for field in msgspec.structs.fields(PrivacyRecipe)} <= named


def test_these_are_all() -> None:
    assert (len(blocks("python")), len(blocks("toml"))) == (4, 1)
