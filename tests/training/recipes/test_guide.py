"""The task in docs/guides/recipes.md trains, and the guide names all keys and recipes."""

import re
from pathlib import Path

import msgspec
import pytest

from training.loop import TrainOptions, run_recipe
from training.recipe import OptimizerRecipe, Recipe, ScheduleRecipe, builtin_recipes, load_recipe

GUIDE = (Path(__file__).parent.parent.parent.parent / "docs/guides/recipes.md").read_text("utf-8")


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
        field.name
        for kind in (Recipe, OptimizerRecipe, ScheduleRecipe)
        for field in msgspec.structs.fields(kind)
    } - {"optimizer", "schedule"}
    assert keys | set(builtin_recipes()) <= named
    assert "`[optimizer]`" in GUIDE
    assert "`[schedule]`" in GUIDE
