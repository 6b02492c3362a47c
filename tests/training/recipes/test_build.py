"""From the words of a recipe to a model, a task and an optimizer."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch
from torch import nn

from training.data import LabelledData
from training.errors import RecipeError
from training.recipe import OptimizerRecipe, Recipe, load_recipe
from training.recipes.build import OPTIMIZERS, build_model, build_optimizer, build_task
from training.task import Batches, Task
from training.tasks.classification import Classification

HERE = __name__


def linear(width: int = 2) -> nn.Module:
    """A model of a user's own."""
    return nn.Linear(width, 2)


def deep() -> nn.Module:
    """A model in whose making other threads have their turn."""
    layers = []
    for _ in range(10):
        layers.append(nn.Linear(2, 2))
        time.sleep(0)
    return nn.Sequential(*layers)


def random_points() -> LabelledData:
    """Data of a user's own."""
    return LabelledData(
        train_inputs=torch.rand(4, 2),
        train_labels=torch.tensor([0, 1, 0, 1]),
        test_inputs=torch.rand(2, 2),
        test_labels=torch.tensor([0, 1]),
    )


class OwnTask:
    """A task of a user's own."""

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> Batches:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def make_task(size: int = 1) -> Task:
    """Returns a task, as a recipe's data function may."""
    if size < 1:
        raise ValueError(f"size is {size}")
    return OwnTask()


def recipe(**changes: object) -> Recipe:
    """The built-in recipe with some keys replaced, unchecked."""
    return msgspec.structs.replace(load_recipe("digits"), **changes)


def test_the_same_seed_gives_the_same_parameters() -> None:
    def weights(seed: int) -> torch.Tensor:
        return next(build_model(recipe(seed=seed)).parameters()).detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_peers_in_threads_of_one_process_begin_alike() -> None:
    own = recipe(model=f"{HERE}:deep", model_options={})

    def weights(_: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(build_model(own).parameters()).detach()

    with ThreadPoolExecutor(8) as peers:
        first, *others = peers.map(weights, range(40))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.slow
def test_dtype_holds_for_parameters_and_inputs() -> None:
    double = recipe(dtype="float64")
    assert next(build_model(double).parameters()).dtype == torch.float64
    task = build_task(double)
    assert isinstance(task, Classification)
    assert task.data.test_inputs.dtype == torch.float64


def test_functions_of_a_users_own() -> None:
    own = recipe(model=f"{HERE}:linear", data=f"{HERE}:random_points", model_options={"width": 3})
    model = build_model(own)
    assert isinstance(model, nn.Linear)
    assert model.in_features == 3
    task = build_task(own)
    assert isinstance(task, Classification)
    assert len(task.data.train_inputs) == 4
    assert isinstance(build_task(recipe(data=f"{HERE}:make_task")), OwnTask)


@pytest.mark.parametrize(
    ("build", "changes", "complaint"),
    [
        (
            build_model,
            {"model": "digitz"},
            "model: digitz is not built in; allowed: albert, charlm, d",
        ),
        (build_model, {"model": "no_such_module:f"}, "no_such_module cannot be imported"),
        (build_model, {"model": f"{HERE}:missing"}, "has no function missing"),
        (build_model, {"model": f"{HERE}:random_points"}, "must return a torch.nn.Module"),
        (build_model, {"model_options": {"depth": 3}}, "does not take model_options"),
        (build_task, {"data": f"{HERE}:linear"}, r"must return a training\.data\.LabelledData or"),
        (
            build_task,
            {"data": f"{HERE}:make_task", "data_options": {"size": 0}},
            "make_task does not take data_options: size is 0",
        ),
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
