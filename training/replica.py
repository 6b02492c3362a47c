"""Replica: the model as this peer has it, and where in the run that is.

Only the thread that trains may read or write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from averaging import AveragerConfig, Manifest, RoundId, Snapshot, StateTable
from p2p import MessageInvalid
from training.follow import CaughtUp
from training.gradients import Gradients
from training.learning_rate import LrRule, rate_factor
from training.model_state import Array, ModelState
from training.progress import BatchSchedule, Position, Sketch
from training.rounds import shared_shapes
from training.state_metadata import decode_metadata_untrusted, encode_metadata

if TYPE_CHECKING:
    from training.shards import Shards


class Replica:
    """Parameters, the optimizer that steps them, sums of gradients, and a position in the run."""

    def __init__(
        self,
        wrapped: torch.optim.Optimizer,
        model: nn.Module,
        schedule: BatchSchedule,
        lr_rule: LrRule,
        averager: AveragerConfig | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.state = ModelState(model, wrapped, shards)
        self.gradients = Gradients(self.state.trained, shards)
        self.position = self.beginning
        """Where in the run the parameters are."""
        self.equalized = False
        """Whether the last round averaged the state, so that all hold the same bits."""
        self.shared: Mapping[str, Array] = {}
        """What all peers hold beside the model at this position; empty at the beginning."""
        self._shared_shapes = shared_shapes(self.gradients.spec, averager or AveragerConfig())
        self._wrapped = wrapped
        self._schedule = schedule
        self._lr_rule = lr_rule
        self._snapshot: tuple[Position, Snapshot] | None = None

    @property
    def beginning(self) -> Position:
        """The position of a run that begins with this state."""
        return Position(RoundId(0, self.state.digest()))

    @property
    def target(self) -> int:
        """The global batch of the step that comes next."""
        return self.position.target(self._schedule)

    def sketch(self) -> Sketch:
        """Of all parameters, as they are now."""
        return self.state.sketch()

    def move(self, position: Position, *, equalized: bool) -> None:
        """The state is that of another position now."""
        self.position, self.equalized = position, equalized

    def step(
        self, means: Mapping[str, Array], position: Position, shared: Mapping[str, Array]
    ) -> None:
        """Take the next global step with these gradients; it leads to this position.

        Args:
            shared: what all peers hold beside the model there.
        """
        factor = rate_factor(self._lr_rule, samples=self.target, first=self._schedule.samples_at(0))
        self.gradients.apply(means, self._wrapped, factor=factor)
        self.move(position, equalized=False)
        self.shared = shared

    def fitting(self, shared: Mapping[str, Array]) -> dict[str, Array]:
        """Of what was kept beside a model, that which goes with how gradients are averaged here."""
        return {
            name: np.array(shared[name], np.float32)
            for name, shape in self._shared_shapes.items()
            if name in shared and shared[name].shape == shape and np.isfinite(shared[name]).all()
        }

    def take_over(self, caught: CaughtUp) -> None:
        """Load a state of the swarm and take the steps since; what was accumulated is dropped."""
        metadata = caught.metadata
        self.state.load(caught.snapshot.arrays, metadata.scalars)
        self.move(metadata.position, equalized=metadata.equalized)
        self.shared = self.fitting(caught.snapshot.arrays)
        for kept in caught.rounds:
            if kept.gradients is not None:
                self.step(kept.gradients, kept.position, kept.shared)
            self.move(kept.position, equalized=False)
        self.gradients.clear()

    def take_snapshot(self) -> Snapshot:
        """A copy of the state, made once for each position."""
        if self._snapshot is None or self._snapshot[0] != self.position:
            metadata = encode_metadata(
                self.position, equalized=self.equalized, scalars=self.state.scalars()
            )
            number = self.position.round.number
            arrays = {**self.state.arrays(), **self.shared}
            self._snapshot = (self.position, Snapshot(number, metadata, arrays))
        return self._snapshot[1]

    def complaint(self, manifest: Manifest) -> str | None:
        """Why an offered state is not one of this model, or None."""
        try:
            decode_metadata_untrusted(manifest.metadata, version=manifest.version)
        except MessageInvalid as exc:
            return str(exc)
        table = manifest.table
        tensors = zip(table.names, table.shapes, table.dtypes, strict=True)
        shared = {(name, shape, "float32") for name, shape in self._shared_shapes.items()}
        own = [tensor for tensor in tensors if tensor not in shared]
        return self.state.complaint(
            StateTable(
                tuple(name for name, _, _ in own),
                tuple(shape for _, shape, _ in own),
                tuple(dtype for _, _, dtype in own),
            )
        )
