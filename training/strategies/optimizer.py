"""LocalOptimizer: an optimizer of PyTorch that steps by itself, and exchanges from time to time.

step() takes the wrapped optimizer's step at once. When the strategy says so, and the others are
there, it also exchanges what the strategy exchanges, and the parameters are no longer what they
were when it returns. An exchange that fails is skipped: what it was about is in the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import nn

from p2p import CallerJobs, Dht, Node, Portal
from training.config import SwarmConfig
from training.finite import all_finite
from training.model_state import ModelState
from training.optimizer import SIT_OUT_S
from training.privacy.budget import PrivacyBudget
from training.privacy.clients import PrivateTactic
from training.progress import PeerProgress, SpeedMeter
from training.step_report import StepReport
from training.strategies.exchanger import Evaluate, Exchanger, Place
from training.strategies.leader import LeaderSGD
from training.strategies.leading import LeaderExchanger
from training.strategies.means import MeanExchanger
from training.strategies.secure import SecureExchange
from training.strategies.secure_offers import SecureOffers
from training.strategies.strategy import Strategy

logger = logging.getLogger(__name__)

_PLACE_KEY = "swarm"
"""What the run adds to state_dict(): torch's own optimizers ignore the entry."""


class LocalOptimizer(torch.optim.Optimizer):
    """Wraps any optimizer of PyTorch; schedulers and checkpoints take it for one.

    Made by Swarm.optimizer() with a strategy. What the wrapped optimizer keeps, such as momentum,
    is each peer's own, and a newcomer begins without.
    """

    def __init__(
        self,
        wrapped: torch.optim.Optimizer,
        *,
        model: nn.Module,
        strategy: Strategy,
        run: str,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
        secure: SecureExchange | None = None,
    ) -> None:
        self._wrapped = wrapped
        # As SwarmOptimizer does: groups and state are the wrapped optimizer's.
        super().__setstate__({"defaults": wrapped.defaults})
        self._portal = portal
        self._jobs = CallerJobs()
        self._owner = threading.get_ident()
        state = ModelState(model, wrapped)
        self._trained = tuple(state.trained.values())
        if not self._trained:
            raise ValueError("the optimizer has no parameter that requires a gradient")
        place = Place(run=run, kind=type(wrapped).__name__, me=network[0].peer_id, call=self._call)
        self._exchanger: Exchanger
        offers = SecureOffers(secure, strategy, config.averager) if secure is not None else None
        if isinstance(strategy, LeaderSGD):
            self._exchanger = LeaderExchanger(strategy, model, state, place)
        else:
            self._exchanger = MeanExchanger(strategy, model, state, place, offers)
        self._exchanger.open(portal, network, config, self._jobs.run)
        self._synchronized = False
        self.skipped_count = 0
        """Micro-batches that gave no finite gradient."""
        self._speed, self._pace = SpeedMeter(), SpeedMeter()
        self._computing_since_s = time.perf_counter()

    # --- what PyTorch expects of an optimizer ---

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self._wrapped.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self._wrapped.state

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, and what is needed to go on in the run."""
        return {**self._wrapped.state_dict(), _PLACE_KEY: self._exchanger.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the wrapped optimizer's state; load the model's parameters first.

        With what state_dict() adds, the run goes on from there; without it begins anew.
        """
        content = dict(state_dict)
        saved = content.pop(_PLACE_KEY, None)
        self._wrapped.load_state_dict(content)
        self._exchanger.load_state_dict(saved)

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        """Refused: all peers must train the same parameters."""
        raise ValueError("add parameter groups before swarm.optimizer() wraps the optimizer")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the parameters' gradients."""
        self._wrapped.zero_grad(set_to_none=set_to_none)

    # --- training together ---

    @property
    def global_step(self) -> int:
        """Exchanges made so far."""
        return self._exchanger.global_step

    @property
    def trains(self) -> bool:
        """Whether step() takes a local step now; a client that is not drawn calls sit_out()."""
        return self._exchanger.tactic.trains

    @property
    def budget(self) -> PrivacyBudget | None:
        """How much of this client's privacy is spent; None where none is promised."""
        tactic = self._exchanger.tactic
        return tactic.budget if isinstance(tactic, PrivateTactic) else None

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float] | None = None,
        *,
        samples: int | None = None,
        loss: float | None = None,
        evaluate: Evaluate | None = None,
    ) -> StepReport:
        """Take a local step with the gradients that are there, and an exchange when it is due.

        Gradients that are not finite are dropped, and no step is taken with them: it would leave
        nothing finite in this peer's parameters and moments. The report says `skipped`.

        Args:
            samples: how many the gradients are of.
            loss: of the micro-batch, before the step. Leader SGD needs it.
            evaluate: computes the loss of the same micro-batch with the model as it is then.
                Leader SGD calls it, without gradients, to see whether to follow somebody.

        Returns:
            `stepped` says whether an exchange was made, `samples` how many of this peer's went
            into it, or wait for the next one.

        Raises:
            ValueError: no gradient, or samples is missing or below 1, or what Leader SGD needs is.
            SpecDiffers: others train something else under this name.
            CatchUpFailed: the swarm is ahead and its state cannot be had.
            PrivacyBudgetExhausted: an exchange is due that private clients cannot pay for any more.
            UpdateTooLarge: an exchange is due, and a value does not fit into its secure sum.
        """
        if closure is not None:
            raise ValueError("closures are not supported: compute the loss before step()")
        if samples is None or samples < 1:
            raise ValueError(
                "step(samples=…) needs the number of samples in the micro-batch, at least 1, "
                f"not {samples}"
            )
        trains = self.trains
        if trains and all(parameter.grad is None for parameter in self._trained):
            raise ValueError("no parameter has a gradient; call loss.backward() before step()")
        self._exchanger.check(loss, evaluate)
        computed_s = time.perf_counter() - self._computing_since_s
        if not self._synchronized:
            caught_up = self.synchronize(evaluate)
            self._synchronized = True
            if caught_up:
                # These gradients are of parameters that are not the swarm's.
                self.zero_grad()
                return self._exchanger.report(caught_up=True)
        if trains and not all_finite(p.grad for p in self._trained if p.grad is not None):
            self.skipped_count += 1
            logger.warning("micro_batch_skipped count=%d cause=non-finite", self.skipped_count)
            self.zero_grad()
            return replace(self._advance(evaluate), skipped=True)
        if trains:
            self._speed.on_done(samples, computed_s)
            self._pace.on_done(1, computed_s)
            self._exchanger.on_gradient()
            self._wrapped.step()
            self._exchanger.on_local_step(samples=samples, loss=loss)
        return self._advance(evaluate)

    def sit_out(self) -> StepReport:
        """Take part in exchanges without computing; for a peer that is not drawn (`trains`).

        Waits a moment, so call it again and again. Where this peer is drawn it does nothing.

        Raises:
            SpecDiffers, CatchUpFailed: as step() does.
        """
        if self.trains:
            return self._exchanger.report()
        if not self._synchronized:
            self._synchronized = True
            return self._exchanger.report(caught_up=self.synchronize())
        time.sleep(SIT_OUT_S)
        return self._advance(None)

    def synchronize(self, evaluate: Evaluate | None = None) -> bool:
        """Take over the swarm's state where the swarm is elsewhere; True if that was so.

        step() does it by itself; before the first micro-batch it saves computing that one in vain.

        Args:
            evaluate: as for step(). Without it Leader SGD takes nothing over, and waits for step().

        Raises:
            SpecDiffers, CatchUpFailed: as step() does.
        """
        caught_up = self._exchanger.synchronize(evaluate)
        self._computing_since_s = time.perf_counter()
        return caught_up

    def state_hash(self) -> str:
        """SHA-256 of what all peers hold alike after an exchange, in hex."""
        return self._exchanger.state_hash()

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same, this one included; `samples` are local steps."""
        return self._exchanger.peers()

    def _advance(self, evaluate: Evaluate | None) -> StepReport:
        report = self._exchanger.advance(self._speed.units_per_s, self._pace.seconds_each, evaluate)
        self._computing_since_s = time.perf_counter()
        return report

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Cross the portal; a snapshot that somebody wants meanwhile is copied by this thread."""
        jobs = self._jobs if threading.get_ident() == self._owner else None
        return self._portal.call(function, *args, jobs=jobs)
