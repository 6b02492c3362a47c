"""The training loop of a recipe: read this first.

It is an ordinary PyTorch loop. What makes it a swarm's is three lines: `join`, which finds the
others; `wrap`, which is `swarm.optimizer` as the recipe has it; and `optimizer.step(samples=…)`,
which only accumulates until all peers together have a global batch, and then applies the average.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from averaging import DonorConfig, RoundFailed
from p2p import NodeConfig
from training.checkpoint import (
    Checkpoint,
    holds_checkpoints,
    load_newest_checkpoint,
    restore,
    save_checkpoint,
)
from training.ema import WeightAverage
from training.errors import CheckpointError, Diverged, PrivacyBudgetExhausted
from training.micro_batch import compute_gradient
from training.optimizer import SwarmOptimizer
from training.privacy.budget import PrivacyBudget
from training.recipe import Recipe
from training.recipes.build import build_model, build_optimizer, build_task
from training.recipes.private import PrivateLots, build_private, trust_needed
from training.recipes.together import build_batch, build_config, build_strategy, wrap
from training.run_log import EventHandler, RunLog
from training.schedule import steer
from training.step_report import StepReport
from training.strategies.optimizer import LocalOptimizer
from training.swarm import Swarm, join
from training.task import Batches, Share, Task, evaluate, share_of

LAST_STEP_WAIT_S = 20.0  # for peers that are a step behind: as long as one failed round may take
REAVERAGE_TRIES = 3
POLL_S = 0.02
# One bad sample spoils a micro-batch now and then; so many in a row are the model's fault.
SKIPPED_MAX = 10


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How this peer takes part; what is trained is the recipe's to say."""

    initial_peers: tuple[str, ...] = ()
    """Addresses of peers through which to enter the swarm; none begins a swarm of its own."""
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddresses to listen on; loopback only, unless told."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found on our interfaces."""
    identity_path: Path | None = None
    """Key file, made when missing; None takes a new identity each time."""
    client_mode: bool = False
    """Cannot be dialed: listens nowhere."""
    node_config: NodeConfig | None = None
    """All else about the node, such as who may connect to it; None takes what is usual."""
    wait_for_peers: int = 1
    """Begin when so many trainers are there, this one included."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """How our state is served to newcomers."""
    checkpoint_dir: Path | None = None
    """Where checkpoints are saved; None saves none."""
    resume: bool = False
    """Go on from the newest checkpoint there, if there is one."""

    def __post_init__(self) -> None:
        if self.wait_for_peers < 1:
            raise ValueError("a trainer cannot wait for fewer than one peer: itself")
        if self.resume and self.checkpoint_dir is None:
            raise ValueError("resume needs a checkpoint_dir to resume from")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a trainer's run ended."""

    ended: Literal["finished", "stopped"]
    """Whether the last step was reached, or the run was left before."""
    peer_id: str | None
    """This peer; None if it was stopped before it had joined."""
    step: int
    """The global step that was reached."""
    samples: int
    """What this peer put into the steps."""
    seconds: float
    """From the beginning to the end."""
    accuracy: float | None = None
    """Share of the test examples that are classified rightly; None when stopped, or where the task
    has another measure."""
    figures: dict[str, float] = field(default_factory=dict)
    """How well the model does on test data, by the task's names; empty when stopped."""
    parameter_hash: str | None = None
    """SHA-256 of the parameters, in hex; with a strategy, of what all peers hold alike after an
    exchange; None when stopped."""


def run_recipe(recipe: Recipe, options: TrainOptions, on_event: EventHandler) -> TrainResult:
    """Train a recipe together with the swarm until its last global step.

    Args:
        on_event: called in this thread with each event of the log, a dictionary ready for JSON;
            training waits until it returns.

    Raises:
        RecipeError, CheckpointError: before the swarm is joined; later where a checkpoint cannot be
            written, which leaves the older ones.
        p2p.P2PError: no initial peer answers, or we cannot listen.
        TrainingError: the swarm trains another model, or its state cannot be had, or no micro-batch
            gives a finite gradient any more, or the privacy budget is spent, after the state was
            saved.
        KeyboardInterrupt is not raised: Ctrl-C leaves the swarm and ends as "stopped".
    """
    log = RunLog(on_event, tells_loss=recipe.privacy is None)
    try:
        return _train(recipe, options, log)
    except KeyboardInterrupt as interrupt:
        log.stopped(str(interrupt) or "Ctrl-C")
        return TrainResult(
            ended="stopped",
            peer_id=log.peer_id,
            step=log.step,
            samples=log.samples,
            seconds=log.seconds,
        )


def _train(recipe: Recipe, options: TrainOptions, log: RunLog) -> TrainResult:
    task = build_task(recipe)
    model = build_model(recipe)
    own_optimizer = build_optimizer(recipe.optimizer, model.parameters())
    private = build_private(recipe, task, model, options.checkpoint_dir)
    batch = build_batch(recipe) if private is None else private.batch
    strategy = build_strategy(recipe, options.checkpoint_dir)
    config = replace(build_config(recipe), donor=options.donor)
    checkpoint = _checkpoint_to_resume(recipe, options)
    log.prepared()
    trusted = trust_needed(recipe)
    if trusted is not None:
        log.warned(trusted)
    with join(
        recipe.run,
        initial_peers=options.initial_peers,
        listen=options.listen,
        announce=options.announce,
        identity_path=options.identity_path,
        client_mode=options.client_mode,
        node_config=options.node_config,
        config=config,
    ) as swarm:
        optimizer = wrap(
            own_optimizer, recipe, model=model, swarm=swarm, batch=batch, strategy=strategy
        )
        steer(own_optimizer, recipe, lambda: optimizer.global_step)
        batches = task.batches(
            seed=recipe.seed,
            peer_id=swarm.peer_id,
            drawn=checkpoint.drawn if checkpoint else 0,
        )
        if checkpoint is not None:
            restore(checkpoint, model, optimizer)
        log.started(
            swarm,
            run=recipe.run,
            step=optimizer.global_step,
            samples=checkpoint.samples if checkpoint else 0,
        )
        _wait_for_peers(swarm, options.wait_for_peers)
        if optimizer.synchronize():
            log.caught_up(optimizer.global_step)
        average = _weight_average(recipe, model, optimizer, checkpoint)
        share = share_of(batches)
        if share is not None and checkpoint is not None and checkpoint.share:
            share.load_state_dict(checkpoint.share)
        trainer = _Trainer(
            recipe,
            options,
            log,
            swarm,
            task,
            model,
            optimizer,
            batches,
            share,
            average,
            private,
        )
        try:
            trainer.train()
        except PrivacyBudgetExhausted:
            trainer.save()
            raise
        return trainer.finish()


@dataclass(frozen=True)
class _Trainer:
    """A peer that is in the swarm, and all that it trains with."""

    recipe: Recipe
    options: TrainOptions
    log: RunLog
    swarm: Swarm
    task: Task
    model: nn.Module
    optimizer: SwarmOptimizer | LocalOptimizer
    batches: Batches
    share: Share | None
    average: WeightAverage | None
    private: PrivateLots | None

    def train(self) -> None:
        """Until the last global step is taken."""
        skipped = 0
        while self.optimizer.global_step < self.recipe.steps:
            if isinstance(self.optimizer, LocalOptimizer) and not self.optimizer.trains:
                self._after(self.optimizer.sit_out())
                continue
            if self.private is not None:
                self._private_step(self.private)
                continue
            if self.share is not None:
                self.swarm.divide(self.share)
            drawn = self.batches.next_batch(self.recipe.micro_batch)
            batch = compute_gradient(self.task, self.model, drawn)
            if batch.complaint:
                self.log.skipped(batch.complaint)
                skipped += 1
                if skipped == SKIPPED_MAX:
                    raise Diverged(skipped, batch.complaint)
                continue
            skipped = 0
            self._after(self._step(batch.loss, drawn), loss=batch.loss)

    def _private_step(self, private: PrivateLots) -> None:
        assert isinstance(self.optimizer, SwarmOptimizer), "lots are for a global batch"
        loss = math.nan
        if private.is_due(self.optimizer.peers()):
            loss = private.compute()
            report = self.optimizer.step(samples=private.lot)
        else:
            report = self.optimizer.sit_out()
        private.on_report(report)
        self._after(report, loss=None if math.isnan(loss) else loss)

    @property
    def budget(self) -> PrivacyBudget | None:
        """What is spent of this peer's privacy, where any is promised."""
        if isinstance(self.optimizer, LocalOptimizer):
            return self.optimizer.budget
        return None if self.private is None else self.private.budget

    def _after(self, report: StepReport, *, loss: float | None = None) -> None:
        """What a call of step() led to is told, and saved from time to time."""
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(report.global_step)
        self.log.after_micro_batch(report, loss)
        if self.budget is not None and report.stepped:
            self.log.spent(self.budget)
        self.log.progress(self.swarm)
        if report.stepped and report.global_step % self.recipe.checkpoint_every == 0:
            self.save()

    def _step(self, loss: float, drawn: Any) -> StepReport:
        if isinstance(self.optimizer, SwarmOptimizer):
            return self.optimizer.step(samples=self.recipe.micro_batch)

        def evaluate() -> float:
            with torch.no_grad():
                return float(self.task.loss(self.model, drawn))

        return self.optimizer.step(samples=self.recipe.micro_batch, loss=loss, evaluate=evaluate)

    def finish(self) -> TrainResult:
        """Come to the same parameters as the others, and judge them."""
        optimizer, log = self.optimizer, self.log
        equal = None
        if isinstance(optimizer, SwarmOptimizer):
            equal = agree_at_the_end(self.swarm, optimizer, self.recipe.steps, log)
            # With delayed updates the round that was under way has brought one more.
            log.step = optimizer.global_step
        figures = _figures(self.task, self.model, self.average)
        self.save()
        parameter_hash = optimizer.state_hash()
        log.finished(figures=figures, parameter_hash=parameter_hash, equal=equal)
        return TrainResult(
            ended="finished",
            peer_id=self.swarm.peer_id,
            step=optimizer.global_step,
            samples=log.samples,
            seconds=log.seconds,
            accuracy=figures.get("accuracy"),
            figures=figures,
            parameter_hash=parameter_hash,
        )

    def save(self) -> None:
        """Write a checkpoint, if a folder was given."""
        if self.options.checkpoint_dir is None:
            return
        average = self.average
        path = save_checkpoint(
            self.options.checkpoint_dir,
            Checkpoint(
                run=self.recipe.run,
                step=self.optimizer.global_step,
                samples=self.log.samples,
                drawn=self.batches.drawn,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                ema=average.state_dict() if average is not None else {},
                share=self.share.state_dict() if self.share is not None else {},
            ),
        )
        self.log.checkpoint(path)


def _weight_average(
    recipe: Recipe,
    model: nn.Module,
    optimizer: SwarmOptimizer | LocalOptimizer,
    checkpoint: Checkpoint | None,
) -> WeightAverage | None:
    """The running mean that the recipe asks for, from the checkpoint or from here on."""
    if not recipe.ema_decay:
        return None
    average = WeightAverage(model, decay=recipe.ema_decay, step=optimizer.global_step)
    if checkpoint is not None and checkpoint.ema:
        try:
            average.load_state_dict(checkpoint.ema)
        except (ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"the checkpoint's running mean cannot be used: {exc}") from exc
    average.update(optimizer.global_step)
    return average


def _figures(task: Task, model: nn.Module, average: WeightAverage | None) -> dict[str, float]:
    """How well the model does, with the running mean of its parameters where there is one."""
    with average.swapped_in() if average is not None else contextlib.nullcontext():
        return evaluate(task, model)


def _wait_for_peers(swarm: Swarm, count: int) -> None:
    """Return when so many trainers are there."""
    while len(swarm.peers) < count:
        time.sleep(POLL_S)


def agree_at_the_end(swarm: Swarm, optimizer: SwarmOptimizer, steps: int, log: RunLog) -> bool:
    """Wait for peers that are a step behind, then average the parameters once more.

    Optimizers give slightly different bits on different machines; after this round all peers that
    took part hold the very same ones.

    Returns:
        Whether the round succeeded.
    """
    deadline_s = time.monotonic() + LAST_STEP_WAIT_S
    while any(peer.step < steps for peer in swarm.peers) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    for _ in range(REAVERAGE_TRIES):
        try:
            optimizer.reaverage()
            return True
        except RoundFailed as failure:
            log.round_failed(failure.report, failure.report.reason)
    return False


def _checkpoint_to_resume(recipe: Recipe, options: TrainOptions) -> Checkpoint | None:
    """The checkpoint to go on from; a folder with checkpoints is never begun anew by accident."""
    if options.checkpoint_dir is None:
        return None
    if options.resume:
        return load_newest_checkpoint(options.checkpoint_dir, run=recipe.run)
    if holds_checkpoints(options.checkpoint_dir):
        raise CheckpointError(
            f"{options.checkpoint_dir}: already holds checkpoints; "
            "resume to go on from them (--resume), or give an empty folder"
        )
    return None
