"""A recipe's [privacy]: lots with noise for a global batch, or private clients for a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

from torch import nn

from training.errors import RecipeError
from training.privacy.accountant import noise_multiplier_for
from training.privacy.budget import PrivacyBudget
from training.privacy.clients import PrivateClients
from training.privacy.dp_sgd import DpSgd, PoissonLots, PrivateBatch, PrivateGradients
from training.privacy.noise import NoiseShares
from training.progress import PeerProgress
from training.recipe import PrivacyRecipe, Recipe
from training.step_report import StepReport
from training.strategies import Strategy
from training.strategies.anchored import DiLoCo, FederatedAveraging, FedProx, LocalSGD
from training.task import Task
from training.tasks.classification import Classification

LEDGER_NAME = "privacy.json"


class PrivateLots:
    """One peer's lots from a classification task, and the noisy gradients of them."""

    def __init__(
        self, task: Classification, model: nn.Module, settings: DpSgd, budget: PrivacyBudget
    ) -> None:
        self.batch = PrivateBatch(settings)
        self.lot = settings.lot
        self._data = task.data
        examples = len(task.data.train_inputs)
        self._lots = PoissonLots(examples=examples, lot=settings.lot)
        self._gradients = PrivateGradients(
            model, task.loss, settings, examples=examples, budget=budget
        )

    @property
    def budget(self) -> PrivacyBudget:
        """What is spent."""
        return self._gradients.budget

    def is_due(self, peers: Sequence[PeerProgress]) -> bool:
        """Whether to bring a lot now, or to sit out until the step is taken."""
        return self._gradients.is_due(peers)

    def compute(self) -> float:
        """Leave the private gradient of the next lot in the parameters; returns the mean loss.

        Raises:
            PrivacyBudgetExhausted: nothing has changed.
        """
        drawn = self._lots.next_lot()
        return self._gradients.compute(
            (self._data.train_inputs[drawn], self._data.train_labels[drawn])
        )

    def on_report(self, report: StepReport) -> None:
        """step() has returned this."""
        self._gradients.on_report(report)


def build_private(
    recipe: Recipe, task: Task, model: nn.Module, folder: Path | None
) -> PrivateLots | None:
    """What computes the gradients of a run that hides each example; None for any other run.

    Args:
        folder: where the budget's ledger is kept; None forgets it with the process.

    Raises:
        RecipeError: this task or model cannot be trained so, or no noise is enough.
        TrainingError: the ledger is not one.
    """
    privacy = recipe.privacy
    if privacy is None:
        return None
    if recipe.strategy is not None:
        if any(buffer.is_floating_point() for buffer in model.buffers()):
            raise RecipeError(
                f"privacy: {recipe.model} has buffers such as the running means of batch norm, "
                "which exchanges average without noise; take a model without, with nn.GroupNorm "
                "for example"
            )
        return None
    if not isinstance(task, Classification):
        raise RecipeError(
            f"privacy: needs labelled data, whose examples can be drawn one by one; {recipe.data} "
            "gives a task that draws its own"
        )
    examples = len(task.data.train_inputs)
    if recipe.micro_batch > examples:
        raise RecipeError(
            f"micro_batch: a lot of {recipe.micro_batch} cannot be drawn from {examples} examples"
        )
    if privacy.delta >= 1 / examples:
        raise RecipeError(
            f"privacy.delta: must be below one in the number of examples, which is {examples}, not "
            f"{privacy.delta:g}: to give one of them away whole would be within it"
        )
    copies = privacy.copies or privacy.peers
    rate, steps = recipe.micro_batch / examples, recipe.steps * copies
    settings = DpSgd(
        clip=privacy.clip,
        noise_multiplier=privacy.noise or 1.0,
        lot=recipe.micro_batch,
        shares=_shares(privacy),
        copies=copies,
        samples_at_once=privacy.samples_at_once,
    )
    if privacy.noise is None:
        least = _multiplier(privacy, rate, steps) * sqrt(settings.lots_in_one_noise)
        settings = replace(settings, noise_multiplier=least)
    budget = PrivacyBudget(epsilon=privacy.epsilon, delta=privacy.delta, ledger=_ledger(folder))
    try:
        return PrivateLots(task, model, settings, budget)
    except ValueError as exc:
        raise RecipeError(f"privacy: {recipe.model} cannot be trained with it: {exc}") from exc


def private_strategy(recipe: Recipe, strategy: Strategy, folder: Path | None) -> Strategy:
    """The recipe's strategy, with clients that hide their updates where it asks for that.

    Raises:
        RecipeError: no noise is enough.
    """
    privacy = recipe.privacy
    if privacy is None:
        return strategy
    assert isinstance(strategy, LocalSGD | DiLoCo | FederatedAveraging | FedProx), "as checked"
    return PrivateClients(
        strategy=strategy,
        clip=privacy.clip,
        noise_multiplier=privacy.noise or _multiplier(privacy, 1.0, recipe.steps),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        shares=_shares(privacy),
        ledger=_ledger(folder),
    )


def group_size_min(recipe: Recipe) -> int:
    """No round is held with too few to hide among."""
    return 1 if recipe.privacy is None else _shares(recipe.privacy).needed


def trust_needed(recipe: Recipe) -> str | None:
    """Whom a private run has to trust, in words for its user; None: nobody."""
    privacy, strategy = recipe.privacy, recipe.strategy
    if privacy is None or privacy.peers == 1 or (strategy is not None and strategy.secure):
        return None
    instead = (
        "DP-SGD cannot be masked, so say peers = 1"
        if strategy is None
        else "say secure = true in [strategy], or peers = 1"
    )
    return (
        f"privacy.peers = {privacy.peers}: what a peer sends has only a share of the noise, and "
        "the promise holds as long as no member looks at single vectors where it averages them; "
        f"{instead}, to trust nobody"
    )


def _shares(privacy: PrivacyRecipe) -> NoiseShares:
    return NoiseShares(peers=privacy.peers, tolerated_drops=privacy.tolerated_drops)


def _ledger(folder: Path | None) -> Path | None:
    return None if folder is None else folder / LEDGER_NAME


def _multiplier(privacy: PrivacyRecipe, rate: float, steps: int) -> float:
    try:
        return noise_multiplier_for(
            epsilon=privacy.epsilon, delta=privacy.delta, rate=rate, steps=steps
        )
    except ValueError as exc:
        raise RecipeError(f"privacy.epsilon: {exc}") from exc
