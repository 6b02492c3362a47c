"""DriftWatch: whether this peer has lost touch with the parameters that most others hold."""

from __future__ import annotations

import logging

from p2p import PeerId
from training.progress import Sketch, Tracker

logger = logging.getLogger(__name__)

# Doubled each time that we were astray.
_TRUST_STEPS = 5


class DriftWatch:
    """Compares our sketch with those of the others; not again and again, if nothing helps.

    Who is astray soon after it took over the others' state computes otherwise than they do:
    downloading it each time would help nobody.

    Args:
        reference: our sketch at the beginning, when all hold the same bits.
        rounding: how far rounding may lead parameters, as a part of their norm.
    """

    def __init__(self, reference: Sketch, rounding: float) -> None:
        self.agreeing: tuple[PeerId, ...] = ()
        """Who holds the parameters of most where we are, while ours are others."""
        self._reference = reference
        self._rounding = rounding
        self._trusted_until_step = 0
        self._trust_steps = _TRUST_STEPS

    def on_equal(self, sketch: Sketch) -> None:
        """We hold the same bits as the others now."""
        self.agreeing, self._reference = (), sketch

    def is_astray(self, tracker: Tracker) -> bool:
        """Whether most hold other parameters where we are."""
        step = tracker.own.position.step
        self.agreeing = ()
        if step >= self._trusted_until_step:
            self.agreeing = tracker.agreeing(self._reference, self._rounding)
        if self.agreeing:
            self._trust_steps *= 2
            self._trusted_until_step = step + self._trust_steps
            logger.warning("astray step=%d agreeing=%d", step, len(self.agreeing))
        return bool(self.agreeing)
