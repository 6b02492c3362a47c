"""Recipes are read strictly: each complaint names the file, the key and what is allowed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import RecipeError
from training.recipe import RECIPES, builtin_recipes, load_recipe, override, parse_recipe

WHOLE = (RECIPES / "digits.toml").read_text("utf-8")


def complaint(text: str) -> str:
    """What is said about a recipe's text."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode(), source="my.toml")
    return str(caught.value)


def test_built_in_recipes_are_valid() -> None:
    assert "digits" in builtin_recipes()
    for name in builtin_recipes():
        assert load_recipe(name).run == name


def test_a_file_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE.replace('run = "digits"', 'run = "mine"'), "utf-8")
    assert load_recipe(str(path)).run == "mine"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps = 300", "steps = 0", "my.toml: steps: must be a whole number from 1 to"),
        ("steps = 300", 'steps = "many"', "my.toml: steps: must be a whole number from 1 to"),
        ("steps = 300", "stpes = 300", "my.toml: stpes: is not a key of a recipe (did you mean st"),
        ("steps = 300", "", "my.toml: steps: is missing; it must be a whole number"),
        ('run = "digits"', 'run = "a b"', "my.toml: run: must be a name of at most 64"),
        ('"float32"', '"float8"', 'my.toml: dtype: must be "float32" or "float64", not \'float8\''),
        ('model = "digits"', 'model = "a:b:c"', "my.toml: model: must be a built-in name"),
        ('name = "adamw"', 'name = "adamv"', "my.toml: optimizer.name: must be one of sgd, adam"),
        ('name = "adamw"', "", "my.toml: optimizer.name: is missing"),
        ('name = "adamw"', 'nam = "adamw"', "my.toml: optimizer.nam: is not a key"),
        ("seed = 0", "seed = -1", "my.toml: seed: must be a whole number from 0"),
        ("seed = 0", "seed = 0.5", "my.toml: seed: must be a whole number from 0"),
        ("seed = 0", "seed = ", "my.toml: is not valid TOML: Invalid value (at line"),
        ("seed = 0", "model_options = 3", "my.toml: model_options: must be a table"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    assert complaint(WHOLE.replace(old, new)).startswith(said)


SCHEDULE = '[schedule]\nname = "linear"\nwarmup = 5\n'


def test_schedule_clipping_and_running_mean() -> None:
    plain = load_recipe("digits")
    assert (plain.schedule.name, plain.schedule.warmup) == ("constant", 0)
    assert (plain.clip_norm, plain.ema_decay) == (0.0, 0.0)
    text = WHOLE.replace("seed = 0", "seed = 0\nclip_norm = 1\nema_decay = 0.9")
    recipe = parse_recipe((text + SCHEDULE + "steps = 400").encode(), source="my.toml")
    assert (recipe.schedule.name, recipe.schedule.warmup, recipe.schedule.steps) == (
        *("linear", 5),
        400,
    )
    assert (recipe.clip_norm, recipe.ema_decay) == (1.0, 0.9)
    assert override(recipe, {"steps": 7}, source="options").schedule == recipe.schedule


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (SCHEDULE.replace("linear", "line"), "my.toml: schedule.name: must be one of constant, "),
        (SCHEDULE + "warm = 1", "my.toml: schedule.warm: is not a key of a recipe (did you mean w"),
        (SCHEDULE.replace("5", "-5"), "my.toml: schedule.warmup: must be a whole number from 0"),
        (SCHEDULE + "final = 2", "my.toml: schedule.final: must be a number from 0 to 1"),
        ("[schedule]\nwarmup = 5", "my.toml: schedule.name: is missing"),
        (
            SCHEDULE + "steps = 40",
            "my.toml: schedule.steps: the rate is at its end after 40 of 300",
        ),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(added: str, said: str) -> None:
    assert complaint(f"{WHOLE}{added}\n").startswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clip_norm = -1", "my.toml: clip_norm: must be a number of at least 0"),
        ("clip_norm = nan", "my.toml: clip_norm: must be a number of at least 0"),
        ("ema_decay = 1.0", "my.toml: ema_decay: must be a number from 0 to below 1"),
        ("schedule = 3", "my.toml: schedule: must be a table with a name and perhaps warmup"),
    ],
)
def test_what_is_wrong_with_a_number_is_named(line: str, said: str) -> None:
    assert complaint(WHOLE.replace("seed = 0", line)).startswith(said)


def test_an_optimizer_that_is_no_table() -> None:
    text = WHOLE[: WHOLE.index("[optimizer]")] + "optimizer = 3\n"
    assert "optimizer: must be a table with name and options, not 3" in complaint(text)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"no such recipe; built in: albert, albert-tiny, charlm, digits"
    ):
        load_recipe("digts")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(tmp_path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(binary))
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load_recipe(str(huge))


def test_options_on_the_command_line_go_first() -> None:
    recipe = override(load_recipe("digits"), {"steps": 7, "run": None}, source="options")
    assert (recipe.steps, recipe.run) == (7, "digits")
    with pytest.raises(RecipeError, match="options: global_batch: must be a whole number"):
        override(recipe, {"global_batch": 0}, source="options")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nothing_but_a_recipe_error_is_raised(content: bytes) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(content, source="my.toml")


def test_a_name_may_be_cut_off_where_that_is_clear() -> None:
    assert load_recipe("split") == load_recipe("split-digits")
    assert load_recipe("albert") != load_recipe("albert-tiny")
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe("spl")
