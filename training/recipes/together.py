"""How the peers of a recipe step together: the global batch, or a strategy instead of one.

Options are checked as strictly as the recipe's own keys: by their names, their types and what the
batch schedule or the strategy itself says of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec
import torch
from torch import nn

from averaging import AveragerConfig
from training.config import SwarmConfig
from training.errors import RecipeError
from training.optimizer import SwarmOptimizer
from training.progress import BatchSchedule, FixedBatch, NoiseScaleBatch, RampBatch
from training.recipe import Recipe
from training.recipes.private import group_size_min, private_strategy
from training.session_plan import check_norms
from training.strategies import (
    DiLoCo,
    ElasticAveraging,
    FederatedAveraging,
    FedProx,
    LeaderSGD,
    LocalSGD,
    Scaffold,
    SecureExchange,
    Strategy,
    StreamingDiLoCo,
)
from training.strategies.optimizer import LocalOptimizer
from training.swarm import Swarm

BATCHES: dict[str, type[RampBatch] | type[NoiseScaleBatch]] = {
    "ramp": RampBatch,
    "noise-scale": NoiseScaleBatch,
}
STRATEGIES: dict[str, type[Strategy]] = {
    "local-sgd": LocalSGD,
    "diloco": DiLoCo,
    "streaming-diloco": StreamingDiLoCo,
    "elastic": ElasticAveraging,
    "leader": LeaderSGD,
    "federated": FederatedAveraging,
    "fedprox": FedProx,
    "scaffold": Scaffold,
}

# A peer may take so many times the steps of the others, or have been away for so many intervals,
# before it counts for less than it has done.
_INTERVALS_MAX = 4

T = TypeVar("T")


def build_batch(recipe: Recipe) -> BatchSchedule | None:
    """The global batch of each step; None where a strategy has the peers step by themselves.

    Raises:
        RecipeError: the batch does not take these options.
    """
    if recipe.global_batch is None:
        return None
    if recipe.batch is None:
        return FixedBatch(recipe.global_batch)
    kind = BATCHES[recipe.batch.name]
    given = {"first": recipe.global_batch}
    return _made("batch.options", recipe.batch.name, kind, recipe.batch.options, given=given)


def build_strategy(recipe: Recipe, folder: Path | None = None) -> Strategy | None:
    """What peers that step by themselves exchange; None where they step together.

    Args:
        folder: where a private client keeps what it has spent.

    Raises:
        RecipeError: the strategy does not take these options.
    """
    if recipe.strategy is None:
        return None
    name = recipe.strategy.name
    strategy = _made("strategy.options", name, STRATEGIES[name], recipe.strategy.options)
    return private_strategy(recipe, strategy, folder)


def build_config(recipe: Recipe) -> SwarmConfig:
    """How the peers of a recipe exchange what they exchange.

    Raises:
        RecipeError: there is no such codec, or it does not go with the rest.
    """
    try:
        averager = AveragerConfig(
            codec=recipe.codec,
            downlink_codec=recipe.downlink_codec,
            error_feedback=recipe.error_feedback,
            codec_error_max=recipe.codec_error_max,
            codec_elements_min=recipe.codec_elements_min,
            group_size_min=group_size_min(recipe),
        )
        batch = build_batch(recipe)
        if batch is not None:
            check_norms(batch, averager)
    except ValueError as exc:
        raise RecipeError(f"codec: {exc}") from exc
    return SwarmConfig(averager=averager)


def build_secure(recipe: Recipe) -> SecureExchange | None:
    """How a recipe's exchanges are summed behind masks; None where they are averaged in the open.

    Raises:
        RecipeError: the strategy does not take these options.
    """
    strategy = recipe.strategy
    if strategy is None or not strategy.secure:
        return None
    made = _made("strategy.options", strategy.name, STRATEGIES[strategy.name], strategy.options)
    assert isinstance(made, LocalSGD | DiLoCo | FederatedAveraging | FedProx), "as checked"
    samples_max = _INTERVALS_MAX * made.every * recipe.micro_batch
    return SecureExchange(value_max=strategy.value_max, samples_max=samples_max)


def wrap(
    own_optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    model: nn.Module,
    swarm: Swarm,
    batch: BatchSchedule | None,
    strategy: Strategy | None,
) -> SwarmOptimizer | LocalOptimizer:
    """The swarm's optimizer, with what build_batch() and build_strategy() made of the recipe.

    Raises:
        SpecDiffers: others train something else under this name.
    """
    if strategy is not None:
        secure = build_secure(recipe)
        return swarm.optimizer(own_optimizer, model=model, strategy=strategy, secure=secure)
    assert batch is not None, "a recipe has a global batch or a strategy"
    return swarm.optimizer(
        own_optimizer,
        model=model,
        global_batch=batch,
        lr_rule=recipe.lr_rule,
        delayed=recipe.delayed,
        reaverage_every=recipe.reaverage_every,
    )


def _made(
    key: str,
    name: str,
    kind: type[T],
    options: Mapping[str, Any],
    *,
    given: Mapping[str, Any] | None = None,
) -> T:
    """A dataclass from a table of options, and from what other keys of the recipe say.

    Args:
        key: of the table, for complaints.
        name: what the options are of.
    """
    given = given or {}
    types = {option: hint for option, hint in get_type_hints(kind).items() if option not in given}
    values: dict[str, Any] = dict(given)
    for option, value in options.items():
        path = f"{key}.{option}"
        if option not in types:
            raise RecipeError(
                f"{path}: is not an option of {name}; allowed: {', '.join(types) or 'none'}"
            )
        hint = types[option]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
            values[option] = _made(path, f"{name}.{option}", hint, value)
            continue
        try:
            values[option] = msgspec.convert(value, hint)
        except msgspec.ValidationError as exc:
            raise RecipeError(f"{path}: {exc}, {value!r}") from exc
    try:
        return kind(**values)
    except (TypeError, ValueError) as exc:
        raise RecipeError(f"{key}: {name} does not take them: {exc}") from exc
