"""Turn the words of a recipe into a model, a task and an optimizer."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from training.data import LabelledData
from training.errors import RecipeError
from training.optimizers import Lamb, Lars
from training.recipe import OptimizerRecipe, Recipe
from training.recipes import DATA, MODELS
from training.task import Task
from training.tasks.classification import Classification

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "lamb": Lamb,
    "lars": Lars,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
_SEEDED = threading.Lock()


def build_model(recipe: Recipe) -> nn.Module:
    """The model with its initial parameters: the same for all peers, by the recipe's seed.

    Raises:
        RecipeError: the model's function cannot be found, or does not return a module.
    """
    # Torch's generator is the process's: two peers in threads of one would draw from it in turns.
    with _SEEDED:
        torch.manual_seed(recipe.seed)
        model = _call("model", recipe.model, MODELS, recipe.model_options)
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"model: {recipe.model} must return a torch.nn.Module, not {type(model).__name__}"
        )
    return model.to(DTYPES[recipe.dtype])


def build_task(recipe: Recipe) -> Task:
    """What is trained on; labelled data becomes a classification task in the recipe's dtype.

    Raises:
        RecipeError: the data's function cannot be found, cannot read its data, or returns neither
            labelled data nor a task.
    """
    made = _call("data", recipe.data, DATA, recipe.data_options)
    if isinstance(made, LabelledData):
        dtype = DTYPES[recipe.dtype]
        return Classification(
            replace(
                made,
                train_inputs=made.train_inputs.to(dtype),
                test_inputs=made.test_inputs.to(dtype),
            )
        )
    if isinstance(made, Task):
        return made
    raise RecipeError(
        f"data: {recipe.data} must return a training.data.LabelledData or a training.task.Task, "
        f"not {type(made).__name__}"
    )


def build_optimizer(
    recipe: OptimizerRecipe, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer that will apply averaged gradients to the parameters.

    Raises:
        RecipeError: it does not take these options.
    """
    make: Callable[..., torch.optim.Optimizer] = OPTIMIZERS[recipe.name]
    try:
        return make(parameters, **recipe.options)
    except (TypeError, ValueError) as exc:
        raise RecipeError(f"optimizer.options: {recipe.name} does not take them: {exc}") from exc


def _call(key: str, name: str, builtin: Mapping[str, str], options: Mapping[str, Any]) -> object:
    """Call the function that a recipe names."""
    path = builtin.get(name, name)
    module_name, colon, function_name = path.partition(":")
    if not colon:
        raise RecipeError(
            f"{key}: {name} is not built in; allowed: {', '.join(sorted(builtin))}, "
            'or "module:function" of your own'
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise RecipeError(f"{key}: {module_name} cannot be imported: {exc}") from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RecipeError(f"{key}: {module_name} has no function {function_name}")
    try:
        return function(**options)
    except (TypeError, ValueError) as exc:
        raise RecipeError(f"{key}: {name} does not take {key}_options: {exc}") from exc
