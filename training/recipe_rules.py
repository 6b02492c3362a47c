"""What must hold between the keys of a recipe, each of which is right by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from training.errors import RecipeError

if TYPE_CHECKING:
    from training.recipe import PrivacyRecipe, Recipe, StrategyRecipe

PRIVATE_STRATEGIES = ("local-sgd", "diloco", "federated", "fedprox")
"""Those that average whole updates, each of new steps alone."""
_OF_GLOBAL_BATCHES = {
    "batch": None,
    "lr_rule": "constant",
    "delayed": False,
    "reaverage_every": 0,
}
"""Keys that are of use with a global batch only, and what they are when they are left out."""
_OF_AUTO = {"codec_error_max": 0.02}
_LOW_RANK = "powersgd"
"""The kind of codec that makes factors."""
_NOT_OF_SPLITS = {
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "codec": None,
    "downlink_codec": None,
    "codec_error_max": 0.02,
    "codec_elements_min": 4096,
    "privacy": None,
}


def check_together(recipe: Recipe, *, source: str) -> None:
    """Check what no key can tell alone.

    Raises:
        RecipeError: two keys do not go together; names one of them.
    """
    length = recipe.schedule.steps
    if length and length < recipe.steps and recipe.schedule.name != "constant":
        raise RecipeError(
            f"{source}: schedule.steps: the rate is at its end after {length} of {recipe.steps} "
            "steps; give at least as many as the recipe has, or none"
        )
    kinds = (recipe.global_batch, recipe.strategy, recipe.split)
    if sum(kind is not None for kind in kinds) != 1:
        raise RecipeError(
            f"{source}: global_batch: give either that, or a strategy with which each peer takes "
            "steps of its own, or a split between clients and a server"
        )
    if recipe.split is not None:
        _check_split(recipe, source=source)
    elif recipe.strategy is not None:
        _check_strategy(recipe, source=source)
    elif recipe.delayed and recipe.reaverage_every:
        raise RecipeError(
            f"{source}: reaverage_every: cannot go with delayed updates, which always have a round "
            "under way"
        )
    if recipe.codec != "auto":
        _check_idle(recipe, _OF_AUTO, 'a codec other than "auto"', source=source)
    if recipe.codec is not None and recipe.codec.partition(":")[0] == _LOW_RANK:
        _check_low_rank(recipe, recipe.codec, source=source)
    if recipe.privacy is not None:
        _check_privacy(recipe, recipe.privacy, source=source)


def _check_low_rank(recipe: Recipe, codec: str, *, source: str) -> None:
    """What must hold where gradients travel as factors; more is checked with the codec itself."""
    if recipe.strategy is not None:
        raise RecipeError(
            f"{source}: codec: {codec} goes with a global batch, and not with a strategy: what "
            "strategies exchange is one long vector, which has no factors"
        )
    if recipe.dtype != "float32":
        raise RecipeError(f"{source}: dtype: must be float32 with the codec {codec}")


def _check_split(recipe: Recipe, *, source: str) -> None:
    assert recipe.split is not None
    _check_idle(recipe, {**_OF_GLOBAL_BATCHES, **_NOT_OF_SPLITS}, "a split", source=source)
    if recipe.schedule.name != "constant":
        raise RecipeError(f"{source}: schedule: is of no use with a split")
    if bool(recipe.split.extra_loss) != (recipe.split.alpha > 0):
        raise RecipeError(f"{source}: split.alpha: goes with an extra_loss, and only with one")


def _check_strategy(recipe: Recipe, *, source: str) -> None:
    assert recipe.strategy is not None
    kind = "a strategy, which has no global batch"
    _check_secure(recipe.strategy, source=source)
    _check_idle(recipe, _OF_GLOBAL_BATCHES, kind, source=source)
    if recipe.codec is not None and recipe.strategy.secure:
        raise RecipeError(
            f"{source}: codec: cannot go with strategy.secure, whose masks hide every element"
        )
    if recipe.codec is not None and recipe.strategy.name == "leader":
        raise RecipeError(
            f"{source}: codec: is of no use with the strategy leader, in which nothing is averaged"
        )


def _check_secure(strategy: StrategyRecipe, *, source: str) -> None:
    """What must hold between the keys of a run with secure sums."""
    if strategy.secure and strategy.name not in PRIVATE_STRATEGIES:
        raise RecipeError(
            f"{source}: strategy.secure: can be had with {', '.join(PRIVATE_STRATEGIES)}; what "
            f"{strategy.name} exchanges is no mean, or contains what was in the last one"
        )
    if strategy.value_max is not None and not strategy.secure:
        raise RecipeError(f"{source}: strategy.value_max: is of no use without secure = true")


def _check_idle(recipe: Recipe, idle: Mapping[str, object], kind: str, *, source: str) -> None:
    """Refuse keys that would change nothing."""
    for key, default in idle.items():
        if getattr(recipe, key) != default:
            raise RecipeError(f"{source}: {key}: is of no use with {kind}")


def _check_privacy(recipe: Recipe, privacy: PrivacyRecipe, *, source: str) -> None:
    """What must hold between the keys of a private run."""
    if privacy.tolerated_drops >= privacy.peers:
        raise RecipeError(
            f"{source}: privacy.tolerated_drops: must be less than privacy.peers, which is "
            f"{privacy.peers}, not {privacy.tolerated_drops}"
        )
    if recipe.strategy is not None:
        if recipe.strategy.name not in PRIVATE_STRATEGIES:
            raise RecipeError(
                f"{source}: privacy: hides the updates of {', '.join(PRIVATE_STRATEGIES)}; what "
                f"{recipe.strategy.name} exchanges it cannot hide"
            )
        if privacy.copies is not None:
            raise RecipeError(
                f"{source}: privacy.copies: is of no use with a strategy, where each peer's data "
                "are hidden as a whole"
            )
        return
    for key, default in (("batch", None), ("lr_rule", "constant"), ("delayed", False)):
        if getattr(recipe, key) != default:
            raise RecipeError(f"{source}: {key}: is of no use with privacy; leave it out")
    if recipe.global_batch != privacy.peers * recipe.micro_batch:
        raise RecipeError(
            f"{source}: global_batch: must be one lot of each peer, privacy.peers times "
            f"micro_batch, which is {privacy.peers * recipe.micro_batch}, not {recipe.global_batch}"
        )
