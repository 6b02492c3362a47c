"""Latencies: how long answers took of late, and when to ask somebody else, too (core)."""

from __future__ import annotations

from collections import deque
from math import ceil

_WINDOW = 64
# Fewer answers than this tell nothing of the tail.
_SAMPLES_MIN = 16
_QUANTILE = 0.95
# Twice what 19 of 20 need: then hedging costs a few per cent more queries.
_FACTOR = 2.0
# A busy machine's hiccups are no reason to pass anybody over.
_HEDGE_S_MIN = 0.1


class Latencies:
    """The last answers' times; a sliding window, as networks change.

    Source: J. Dean, L. A. Barroso, The Tail at Scale, 2013.
    """

    def __init__(self) -> None:
        self._last_s: deque[float] = deque(maxlen=_WINDOW)
        self._tail_s: float | None = None

    def on_answer(self, took_s: float) -> None:
        """An answer came after so long, connecting included."""
        self._last_s.append(took_s)
        self._tail_s = None

    def hedge_s(self, most_s: float) -> float:
        """A peer silent for so long is passed over; ``most_s`` while little is known."""
        if len(self._last_s) < _SAMPLES_MIN:
            return most_s
        if self._tail_s is None:
            ordered = sorted(self._last_s)
            self._tail_s = ordered[ceil(_QUANTILE * len(ordered)) - 1]
        return min(max(_FACTOR * self._tail_s, _HEDGE_S_MIN), most_s)
