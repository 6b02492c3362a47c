"""From the words of a recipe to a global batch or a strategy, as strictly as any other key."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from training import FixedBatch, NoiseScaleBatch, RampBatch, join
from training.errors import RecipeError
from training.recipe import Recipe, load_recipe, override, parse_recipe
from training.recipes.together import (
    BATCHES,
    STRATEGIES,
    build_batch,
    build_secure,
    build_strategy,
    wrap,
)
from training.strategies import (
    DiLoCo,
    LocalSGD,
    OuterStep,
    SecureExchange,
    StreamingDiLoCo,
)

WHOLE = """
run = "mine"
model = "digits"
data = "digits"
micro_batch = 16
steps = 9
{keys}
[optimizer]
name = "sgd"
"""
BATCH = 'global_batch = 64\n[batch]\nname = "ramp"\noptions = {{ {options} }}'
STRATEGY = '[strategy]\nname = "{name}"\noptions = {{ {options} }}'


def recipe_with(keys: str) -> Recipe:
    return parse_recipe(WHOLE.format(keys=keys).encode(), source="my.toml")


def complaint(keys: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe = recipe_with(keys)
        build_batch(recipe)
        build_strategy(recipe)
    return str(caught.value)


def test_what_nobody_asks_for_is_a_fixed_batch_step_by_step() -> None:
    recipe = load_recipe("digits")
    assert (recipe.delayed, recipe.lr_rule, recipe.batch, recipe.strategy) == (
        *(False, "constant"),
        *(None, None),
    )
    assert build_batch(recipe) == FixedBatch(256)
    assert build_strategy(recipe) is None


def test_a_batch_begins_with_the_global_batch() -> None:
    ramp = recipe_with(BATCH.format(options='last = 256, steps = 5, kind = "doubling"'))
    assert build_batch(ramp) == RampBatch(first=64, last=256, steps=5, kind="doubling")
    larger = override(ramp, {"global_batch": 128}, source="options")
    assert build_batch(larger) == RampBatch(first=128, last=256, steps=5, kind="doubling")
    noise = recipe_with(
        'global_batch = 64\nlr_rule = "sqrt"\ndelayed = true\n'
        '[batch]\nname = "noise-scale"\noptions = { smallest = 32, largest = 512, grid = 32 }'
    )
    assert build_batch(noise) == NoiseScaleBatch(first=64, smallest=32, largest=512, grid=32)
    assert (noise.lr_rule, noise.delayed) == ("sqrt", True)


def test_a_strategy_takes_the_place_of_the_global_batch() -> None:
    recipe = recipe_with(STRATEGY.format(name="local-sgd", options="every = 7"))
    assert build_strategy(recipe) == LocalSGD(every=7)
    assert build_batch(recipe) is None
    nested = STRATEGY.format(name="diloco", options="every = 5, outer = { rate = 1 }")
    # What is not named has the default of the inner table, as in Python.
    assert build_strategy(recipe_with(nested)) == DiLoCo(every=5, outer=OuterStep(rate=1.0))
    assert override(recipe, {"steps": 3}, source="options").strategy == recipe.strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_name_and_defaults(name: str) -> None:
    recipe = recipe_with(f'[strategy]\nname = "{name}"')
    assert type(build_strategy(recipe)) is STRATEGIES[name]


def test_the_names_are_those_that_a_recipe_allows() -> None:
    for key, names in (("batch", BATCHES), ("strategy", STRATEGIES)):
        said = complaint(f'{key} = {{ name = "nothing" }}')
        (allowed,) = said.partition("must be one of ")[2].split(", not ")[:1]
        assert allowed.replace(" and ", ", ").split(", ") == list(names)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("", "my.toml: global_batch: give either that, or a strategy"),
        (
            "global_batch = 8\n" + STRATEGY.format(name="diloco", options=""),
            "my.toml: global_batch",
        ),
        (
            "delayed = true\n" + STRATEGY.format(name="diloco", options=""),
            "my.toml: delayed: is of",
        ),
        ('lr_rule = "sqrt"\n' + STRATEGY.format(name="diloco", options=""), "my.toml: lr_rule: is"),
        ("global_batch = 8\ndelayed = 1", "my.toml: delayed: must be true or false, not 1"),
        ('global_batch = 8\nlr_rule = "log"', 'my.toml: lr_rule: must be "constant", "linear"'),
        ("global_batch = 8\nbatch = 3", "my.toml: batch: must be a table with name and options"),
        (
            STRATEGY.format(name="diloco", options="").replace("name", "nam"),
            "my.toml: strategy.nam: is not a key",
        ),
        (
            BATCH.format(options="last = 9, stps = 2"),
            "batch.options.stps: is not an option of ramp",
        ),
        (BATCH.format(options="first = 8"), "batch.options.first: is not an option of ramp; allo"),
        (BATCH.format(options="last = 9.5, steps = 2"), "batch.options.last: Expected `int`"),
        (BATCH.format(options="last = 9"), "batch.options: ramp does not take them: RampBatch._"),
        (BATCH.format(options="last = 9, steps = 0"), "batch.options: ramp does not take them: a "),
        (
            STRATEGY.format(name="streaming-diloco", options="every = 7, fragments = 2"),
            "strategy.options: streaming-diloco does not take them: every must be a multiple",
        ),
        (
            STRATEGY.format(name="diloco", options="outer = { rat = 1.0 }"),
            "strategy.options.outer.rat: is not an option of diloco.outer; allowed: rate, momentum",
        ),
        (
            STRATEGY.format(name="elastic", options="") + "\nsecure = true",
            "my.toml: strategy.secure: can be had with local-sgd, diloco, federated, fedprox",
        ),
        (
            STRATEGY.format(name="diloco", options="") + "\nvalue_max = 1.0",
            "my.toml: strategy.value_max: is of no use without secure = true",
        ),
        (
            STRATEGY.format(name="diloco", options="") + "\nsecure = 1",
            "my.toml: strategy.secure: must be true or false, not 1",
        ),
        (
            "global_batch = 64\nsecure = true",
            "my.toml: secure: is not a key of a recipe",
        ),
        (
            STRATEGY.format(name="diloco", options="outer = 3"),
            "strategy.options.outer: Expected `object`, got `int`, 3",
        ),
    ],
)
def test_what_is_wrong_is_named(keys: str, said: str) -> None:
    assert complaint(keys).startswith(said)


def test_one_key_makes_exchanges_secure_sums() -> None:
    keys = STRATEGY.format(name="federated", options="every = 5")
    assert build_secure(recipe_with(keys)) is None
    assert build_secure(recipe_with("global_batch = 8")) is None
    # Four times what a peer does in an interval, which is 5 batches of 16.
    assert build_secure(recipe_with(keys + "\nsecure = true")) == SecureExchange(samples_max=320)
    both = recipe_with(keys + "\nsecure = true\nvalue_max = 0.5")
    assert build_secure(both) == SecureExchange(value_max=0.5, samples_max=320)
    private = "[privacy]\nclip = 1.0\nepsilon = 9.0"
    recipe = recipe_with(f"{keys.replace('5', '1')}\nsecure = true\n{private}")
    model = nn.Linear(2, 2)
    with join("test") as swarm:
        optimizer = wrap(
            torch.optim.SGD(model.parameters()),
            recipe,
            model=model,
            swarm=swarm,
            batch=None,
            strategy=build_strategy(recipe),
        )
        model(torch.ones(1, 2)).sum().backward()
        assert optimizer.step(samples=1).failure.startswith("a secure sum needs 3 peers")


def test_a_recipe_says_the_same_after_it_was_written_out() -> None:
    recipe = recipe_with(STRATEGY.format(name="streaming-diloco", options="delay = 3"))
    again = override(recipe, msgspec.to_builtins(recipe), source="options")
    assert build_strategy(again) == StreamingDiLoCo(delay=3)
