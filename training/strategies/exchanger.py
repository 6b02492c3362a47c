"""What LocalOptimizer needs of an exchange, and what an exchange needs to know of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from p2p import Dht, Node, PeerId, Portal
from training.advice import OnCaller
from training.config import SwarmConfig
from training.progress import PeerProgress
from training.step_report import StepReport
from training.strategies.strategy import Tactic

Evaluate = Callable[[], float]
"""Computes the loss of the micro-batch at hand with the model as it is."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and as who the optimizer takes part."""

    run: str
    kind: str
    """Names the wrapped optimizer, which all peers must have alike."""
    me: PeerId
    call: Callable[..., Any]
    """Runs an async function on trio's thread, and waits for its result."""


class Exchanger(Protocol):
    """Carries out what a tactic asks for; used by the thread that trains."""

    @property
    def tactic(self) -> Tactic:
        """What decides for this peer."""

    @property
    def global_step(self) -> int:
        """Exchanges so far."""

    def open(
        self,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
        on_caller: OnCaller,
    ) -> None:
        """Enter the run; raises SpecDiffers."""

    def check(self, loss: float | None, evaluate: Evaluate | None) -> None:
        """Raise ValueError where something is missing that exchanges need."""

    def on_gradient(self) -> None:
        """The parameters have gradients, and are about to take a step."""

    def on_local_step(self, *, samples: int, loss: float | None) -> None:
        """The parameters have just taken a step."""

    def advance(
        self, samples_per_s: float, period_s: float, evaluate: Evaluate | None
    ) -> StepReport:
        """Tell how far we are, and exchange what is due."""

    def synchronize(self, evaluate: Evaluate | None = None) -> bool:
        """Take over the swarm's state where the swarm is elsewhere; True if that was so."""

    def report(self, *, caught_up: bool = False) -> StepReport:
        """What step() returns when nothing was exchanged."""

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same, this one included."""

    def state_hash(self) -> str:
        """SHA-256 of what exchanges keep alike, in hex."""

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on, beside the model and the wrapped optimizer."""

    def load_state_dict(self, saved: dict[str, Any] | None) -> None:
        """Go on from there, or begin anew with the model as it is."""
