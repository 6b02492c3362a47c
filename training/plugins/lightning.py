"""SwarmCallback: an ordinary LightningModule, trained by PyTorch Lightning together with a swarm.

The Trainer's global_step becomes the swarm's: max_steps, checkpoints every so many steps and
schedulers by step go by it. Each batch, or each accumulate_grad_batches of them, adds to the
swarm's batch; epochs, and validation within them, are this peer's own.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from training.plugins.foreign import (
    CountSamples,
    ForeignOptimizer,
    clip_averaged,
    first_dimension,
)
from training.plugins.packages import PackageMissing
from training.plugins.schedule import GlobalStepSchedule
from training.progress import BatchSchedule
from training.swarm import Swarm

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ImportError as exc:
    raise PackageMissing("lightning", extra="lightning") from exc

_SEED_BITS = 63


class SwarmCallback(Callback):
    """Shares what a LightningModule trains with all peers of a run.

    Put it first among the callbacks: then the others see the swarm's global step. Gradients are
    clipped (gradient_clip_val) after averaging. The random numbers of this process are mixed with
    the peer's id when training begins, so that peers with one seed do not draw the same examples.

    Args:
        swarm: joined before; it must stay open while fit() runs.
        global_batch: samples that all peers together put into one step.
        count: how many samples a batch weighs; by default the size of its first dimension.
    """

    def __init__(
        self,
        swarm: Swarm,
        *,
        global_batch: int | BatchSchedule,
        count: CountSamples = first_dimension,
    ) -> None:
        self.swarm = swarm
        self._global_batch = global_batch
        self._count = count
        self._foreign: ForeignOptimizer

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap what configure_optimizers() gave.

        Raises:
            ValueError: the module steps by hand or has several optimizers, or several processes
                train it.
        """
        if not pl_module.automatic_optimization or len(trainer.strategy.optimizers) != 1:
            raise ValueError(
                "a swarm steps one optimizer of a module that is optimized automatically; "
                "with manual optimization wrap it yourself, with swarm.optimizer(…)"
            )
        if trainer.world_size > 1:
            raise ValueError(
                "several processes train this module; use training.plugins.ddp with a loop of "
                "your own, or let each process be a peer of its own"
            )
        (optimizer,) = trainer.strategy.optimizers
        self._clip_later(trainer, pl_module, optimizer)
        shared = self.swarm.optimizer(optimizer, model=pl_module, global_batch=self._global_batch)
        self._foreign = ForeignOptimizer(shared)
        trainer.strategy.optimizers = [self._foreign]
        for config in trainer.strategy.lr_scheduler_configs:
            if config.interval == "step" and not config.reduce_on_plateau:
                config.scheduler = _by_global_step(config.scheduler, shared, config.frequency)
                config.frequency = 1
        text = f"{torch.initial_seed()}/{self.swarm.peer_id}"
        digest = hashlib.sha256(text.encode()).digest()
        torch.manual_seed(int.from_bytes(digest) % 2**_SEED_BITS)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go to where the swarm is."""
        self._synchronize(trainer)
        self._show_step(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._foreign.begin()
        self._foreign.count(self._count(batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the swarm's step instead of the number of calls of optimizer.step()."""
        self._show_step(trainer)
        report = self._foreign.report
        if report is not None and report.stepped:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.swarm.tell(
                samples=self._foreign.contributed, loss=None if loss is None else float(loss)
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where the swarm is, after something that took its time beside the computing."""
        if trainer.state.fn == "fit":
            self._synchronize(trainer)

    def _synchronize(self, trainer: Trainer) -> None:
        self._foreign.shared.synchronize()
        for config in trainer.strategy.lr_scheduler_configs:
            if isinstance(config.scheduler, GlobalStepSchedule):
                config.scheduler.step()

    def _show_step(self, trainer: Trainer) -> None:
        # The Trainer's own counter of steps, which global_step reads and checkpoints hold.
        counted = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        counted.total.ready = counted.total.completed = self._foreign.shared.global_step

    @staticmethod
    def _clip_later(
        trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the clipping over, unless the module has a way of its own."""
        limit = trainer.gradient_clip_val
        if not limit or is_overridden("configure_gradient_clipping", pl_module):
            return
        if trainer.gradient_clip_algorithm == "value":
            clip_averaged(optimizer, value=limit)
        else:
            clip_averaged(optimizer, norm=limit)
        trainer.gradient_clip_val = None


def _by_global_step(scheduler: Any, shared: Any, frequency: int) -> GlobalStepSchedule:
    return GlobalStepSchedule(scheduler, lambda: shared.global_step // frequency)
