"""GlobalStepSchedule: a learning rate that follows the swarm's steps in a framework's hands."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


class GlobalStepSchedule:
    """Steps a scheduler as often as the swarm has stepped, however often it is told to step.

    Frameworks step a scheduler after each call of optimizer.step(), of which several may go into
    one global step; and a peer that takes over the others' state leaps over many. A scheduler
    cannot go back: where the swarm's state is an older one, the rate stays until it is overtaken.

    Args:
        wrapped: the scheduler, made for the same optimizer.
        position: how many steps it should have made by now.
    """

    def __init__(self, wrapped: LRScheduler, position: Callable[[], int]) -> None:
        self._wrapped = wrapped
        self._position = position

    def step(self) -> None:
        """Go to where the swarm is."""
        with warnings.catch_warnings():
            # After a download, PyTorch misses the steps of the optimizer that others have made.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)`")
            while self._wrapped.last_epoch < self._position():
                self._wrapped.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's own."""
        return self._wrapped.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what state_dict() gave."""
        self._wrapped.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        """All else that frameworks ask a scheduler for, such as get_last_lr()."""
        if name == "_wrapped":  # while a copy is made, which has nothing yet
            raise AttributeError(name)
        return getattr(self._wrapped, name)
