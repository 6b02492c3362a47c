"""SwarmTrainer: a Trainer of Hugging Face's transformers whose steps are the swarm's.

What the Trainer calls a step becomes a global step. Between two of them it may call
optimizer.step() any number of times; each call adds what it accumulated to the swarm's batch.
So max_steps, logging, evaluation, saving and the learning rate go by global steps, on all peers
alike, and gradient accumulation only says how much is computed between two calls.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from typing import Any

import torch

from training.optimizer import SwarmOptimizer
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
    import accelerate  # noqa: F401 – the Trainer cannot be made without it
    from transformers import GreedyLR, Trainer, TrainerCallback, TrainerControl, TrainerState
except ImportError as exc:
    raise PackageMissing("transformers with accelerate", extra="huggingface") from exc

# Seeds of data loaders are 32 bits wide in some of the libraries below.
_SEED_BITS = 32


class SwarmTrainer(Trainer):
    """A Trainer that trains together with all peers of a run.

    A Trainer's subclass joins with `class Mine(SwarmTrainer, TheirTrainer): pass`. Gradients are
    clipped (max_grad_norm) after averaging, and each peer draws the examples in an order of its
    own, whatever the seed.

    Args:
        model, args, more: as the Trainer takes them; args.max_steps counts global steps.
        swarm: joined before; it must stay open while train() runs.
        global_batch: samples that all peers together put into one step.
        count: how many samples a collated batch weighs; by default its sequences. For a loss that
            is a mean over tokens count those, and the global batch is one of tokens.

    Raises:
        ValueError: args.max_steps is not set, or several processes train one model.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *more: Any,
        swarm: Swarm,
        global_batch: int | BatchSchedule,
        count: CountSamples = first_dimension,
        **keywords: Any,
    ) -> None:
        if args is None or args.max_steps <= 0:
            raise ValueError(
                "a swarm counts global steps, no epochs: set TrainingArguments(max_steps=…)"
            )
        if args.world_size > 1:
            raise ValueError(
                "several processes train this model; use training.plugins.ddp with a loop of your "
                "own, or let each process be a peer of its own"
            )
        args = copy.copy(args)
        seed = args.seed if args.data_seed is None else args.data_seed
        digest = hashlib.sha256(f"{seed}/{swarm.peer_id}".encode()).digest()
        args.data_seed = int.from_bytes(digest) % 2**_SEED_BITS
        self.swarm = swarm
        self.shared: SwarmOptimizer | None = None
        """The swarm's optimizer; None until train() has made it."""
        self._global_batch = global_batch
        self._count = count
        self._losses = _MeanLoss()
        self._all_losses = _MeanLoss()
        super().__init__(model, args, *more, **keywords)
        self.add_callback(_FollowSwarm(self))

    # --- what the Trainer lets its subclasses change ---

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer as the Trainer would, and share it with the swarm."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.shared is None:
            if self.args.max_grad_norm > 0:
                clip_averaged(optimizer, norm=self.args.max_grad_norm)
                self.args.max_grad_norm = 0.0
            self.shared = self.swarm.optimizer(
                optimizer, model=self.model, global_batch=self._global_batch
            )
            self.foreign = self.optimizer = optimizer = ForeignOptimizer(self.shared)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Make the scheduler as the Trainer would, and let it follow the global step."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        by_metric = (torch.optim.lr_scheduler.ReduceLROnPlateau, GreedyLR, GlobalStepSchedule)
        if not isinstance(scheduler, by_metric):
            self.lr_scheduler = GlobalStepSchedule(scheduler, self._position)
        return self.lr_scheduler

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """As the Trainer does, but without an end of epochs: the last global step is the end."""
        epochs, *others = super().set_initial_training_values(args, dataloader)
        return (max(epochs, sys.maxsize), *others)

    def training_step(self, model: Any, inputs: Any, *more: Any, **keywords: Any) -> torch.Tensor:
        """As the Trainer does; counts the samples and keeps the loss."""
        self.foreign.count(self._count(inputs))
        loss: torch.Tensor = super().training_step(model, inputs, *more, **keywords)
        self._losses.add(loss)
        self._all_losses.add(loss)
        return loss

    def log(self, logs: dict[str, float], *more: Any, **keywords: Any) -> None:
        """As the Trainer does, with the mean loss of all that was computed, and the swarm's size.

        The Trainer divides by its steps, of which several calls of optimizer.step() may share one.
        """
        if "loss" in logs:
            logs["loss"] = self._losses.take()
            self.swarm.tell(samples=self.foreign.contributed, loss=logs["loss"])
            peers = self.swarm.peers
            logs["swarm_peers"] = len(peers)
            logs["swarm_samples_per_second"] = round(sum(p.samples_per_s for p in peers), 1)
        if "train_loss" in logs:
            logs["train_loss"] = self._all_losses.mean
        super().log(logs, *more, **keywords)

    def train(self, *args: Any, **keywords: Any) -> Any:
        """As the Trainer does; its training_loss is the mean of what this peer computed."""
        self._losses, self._all_losses = _MeanLoss(), _MeanLoss()
        output = super().train(*args, **keywords)
        return output._replace(training_loss=self._all_losses.mean)

    # --- what the callback asks for ---

    def on_update(self) -> None:
        """The optimizer was stepped once."""
        self._losses.updates += 1
        self._all_losses.updates += 1

    def synchronize(self) -> None:
        """Look where the swarm is, after something that took its time beside the computing."""
        if self.shared is not None and self.is_in_train:
            self.shared.synchronize()
            if isinstance(self.lr_scheduler, GlobalStepSchedule):
                self.lr_scheduler.step()

    def _position(self) -> int:
        return self.shared.global_step if self.shared is not None else 0


class _MeanLoss:
    """A mean over calls of optimizer.step(), of losses that are scaled to add up within one."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self.updates = 0

    def add(self, loss: torch.Tensor) -> None:
        """The part of one micro-batch."""
        self._sum = self._sum + loss.detach()

    @property
    def mean(self) -> float:
        """Zero before the first step."""
        return float(self._sum) / max(1, self.updates)

    def take(self) -> float:
        """The mean; begin anew."""
        mean = self.mean
        self._sum, self.updates = 0.0, 0
        return mean


class _FollowSwarm(TrainerCallback):
    """Keeps the Trainer's step at the swarm's, and lets nothing happen twice for one step."""

    def __init__(self, trainer: SwarmTrainer) -> None:
        self._trainer = trainer
        self._seen = 0

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trainer.synchronize()
        state.global_step = self._seen = self._trainer.foreign.shared.global_step

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trainer.foreign.begin()

    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trainer.on_update()
        # The Trainer adds one to it next, before anybody looks at it.
        state.global_step = self._trainer.foreign.shared.global_step - 1

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        if state.global_step == self._seen:
            control.should_log = control.should_evaluate = control.should_save = False
        self._seen = state.global_step

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._trainer.synchronize()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        self._trainer.synchronize()
