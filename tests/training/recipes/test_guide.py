"""The task in docs/guides/recipes.md trains, and the guide names all keys and recipes."""

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest

from training.loop import TrainOptions, run_recipe
from training.progress import RampBatch
from training.recipe import (
    BatchRecipe,
    OptimizerRecipe,
    PrivacyRecipe,
    Recipe,
    ScheduleRecipe,
    SplitRecipe,
    StrategyRecipe,
    builtin_recipes,
    load_recipe,
    parse_recipe,
)
from training.recipes.together import BATCHES, STRATEGIES, build_batch, build_strategy
from training.strategies import DiLoCo

GUIDE = (Path(__file__).parent.parent.parent.parent / "docs/guides/recipes.md").read_text("utf-8")

TABLES = {
    "optimizer": OptimizerRecipe,
    "schedule": ScheduleRecipe,
    "batch": BatchRecipe,
    "strategy": StrategyRecipe,
    "privacy": PrivacyRecipe,
    "split": SplitRecipe,
}


def code(language: str) -> str:
    """The guide's one block of code in a language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)
    assert isinstance(block, str)
    return block


@pytest.mark.slow
def test_the_task_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sine.py").write_text(code("python"), "utf-8")
    (tmp_path / "sine.toml").write_text(code("toml"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    result = run_recipe(
        load_recipe(str(tmp_path / "sine.toml")), TrainOptions(), lambda event: None
    )
    assert (result.ended, result.step) == ("finished", 60)
    assert result.figures["square_error"] < 0.1


def test_all_keys_and_recipes_are_named() -> None:
    named = set(re.findall(r"`([\w-]+)`", GUIDE))
    keys = {
        field.name for kind in (Recipe, *TABLES.values()) for field in msgspec.structs.fields(kind)
    } - TABLES.keys()
    assert keys | set(builtin_recipes()) <= named
    for table in TABLES:
        assert f"`[{table}]`" in GUIDE


def test_all_strategies_and_batches_are_named_with_their_options() -> None:
    for name, kind in STRATEGIES.items():
        options = ", ".join(f"`{field.name}`" for field in dataclasses.fields(kind))
        assert f"| `{name}` | `{kind.__name__}` | {options} |" in GUIDE
    named = set(re.findall(r"[\w-]+", GUIDE))
    for name, schedule in BATCHES.items():
        assert {name, *(field.name for field in dataclasses.fields(schedule))} <= named


def test_what_the_guide_shows_of_batches_and_strategies_is_a_recipe() -> None:
    shown = [block for block in re.findall(r"^```\n(.*?)^```", GUIDE, re.M | re.S) if "[" in block]
    assert len(shown) == 2
    whole = (
        'run = "mine"\nmodel = "digits"\ndata = "digits"\nmicro_batch = 8\nsteps = 9\n'
        'optimizer = { name = "sgd" }\n'
    )
    batch, strategy = (parse_recipe((whole + block).encode(), source="guide") for block in shown)
    assert build_batch(batch) == RampBatch(first=256, last=4096, steps=2000, kind="doubling")
    assert build_strategy(strategy) == DiLoCo(every=50)
