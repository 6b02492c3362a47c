"""From the words of a recipe to a model, data and an optimizer."""

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import nn

from training.data import LabelledData
from training.errors import RecipeError
from training.recipe import OptimizerRecipe, Recipe, load_recipe
from training.recipes.build import OPTIMIZERS, build_data, build_model, build_optimizer

HERE = __name__


def linear(width: int = 2) -> nn.Module:
    """A model of a user's own."""
    return nn.Linear(width, 2)


def random_points() -> LabelledData:
    """Data of a user's own."""
    return LabelledData(
        train_inputs=torch.rand(4, 2),
        train_labels=torch.tensor([0, 1, 0, 1]),
        test_inputs=torch.rand(2, 2),
        test_labels=torch.tensor([0, 1]),
    )


def recipe(**changes: object) -> Recipe:
    """The built-in recipe with some keys replaced, unchecked."""
    return msgspec.structs.replace(load_recipe("digits"), **changes)


def test_the_same_seed_gives_the_same_parameters() -> None:
    def weights(seed: int) -> torch.Tensor:
        return next(build_model(recipe(seed=seed)).parameters()).detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.slow
def test_dtype_holds_for_parameters_and_inputs() -> None:
    double = recipe(dtype="float64")
    assert next(build_model(double).parameters()).dtype == torch.float64
    assert build_data(double).test_inputs.dtype == torch.float64


def test_functions_of_a_users_own() -> None:
    own = recipe(model=f"{HERE}:linear", data=f"{HERE}:random_points", model_options={"width": 3})
    model = build_model(own)
    assert isinstance(model, nn.Linear)
    assert model.in_features == 3
    assert len(build_data(own).train_inputs) == 4


@pytest.mark.parametrize(
    ("build", "changes", "complaint"),
    [
        (build_model, {"model": "digitz"}, "model: digitz is not built in; allowed: digits"),
        (build_model, {"model": "no_such_module:f"}, "no_such_module cannot be imported"),
        (build_model, {"model": f"{HERE}:missing"}, "has no function missing"),
        (build_model, {"model": f"{HERE}:random_points"}, "must return a torch.nn.Module"),
        (build_model, {"model_options": {"depth": 3}}, "does not take model_options"),
        (build_data, {"data": f"{HERE}:linear"}, "must return a training.data.LabelledData"),
    ],
)
def test_what_cannot_be_built_is_named(
    build: Callable[[Recipe], object], changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        build(recipe(**changes))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_optimizer_can_be_had(name: str) -> None:
    optimizer = build_optimizer(
        OptimizerRecipe(name=name, options={"lr": 0.25}),  # type: ignore[arg-type]
        linear().parameters(),
    )
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_wrong_optimizer_options_are_named() -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.options: sgd does not take them"):
        build_optimizer(OptimizerRecipe(name="sgd", options={"speed": 3}), linear().parameters())
