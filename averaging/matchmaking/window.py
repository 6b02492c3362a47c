"""How long a leader waits for members that may still come: as past rounds suggest."""

from __future__ import annotations

import statistics
from collections import deque

# Enough rounds for a median, few enough to follow a swarm whose pace changes.
_ROUNDS_REMEMBERED = 8
# Four median absolute deviations hold 99.3 % of a normal distribution (2.7 standard deviations).
_SPREAD_FACTOR = 4.0


class ArrivalWindow:
    """The adaptive deadline: median + 4 MAD of the last arrivals of recent rounds, bounded.

    What counts in a round is when its last member came, also if that was too late: a mean over
    all members would shut out the one that is always last.
    """

    def __init__(self, *, lower_s: float, upper_s: float) -> None:
        self._lower_s = lower_s
        self._upper_s = upper_s
        self._last_arrivals_s: deque[float] = deque(maxlen=_ROUNDS_REMEMBERED)

    @property
    def upper_s(self) -> float:
        """The longest wait."""
        return self._upper_s

    @property
    def experienced(self) -> bool:
        """Whether any round has been seen."""
        return bool(self._last_arrivals_s)

    @property
    def window_s(self) -> float:
        """How long to wait in the next round; the upper bound before the first."""
        if not self._last_arrivals_s:
            return self._upper_s
        median_s = statistics.median(self._last_arrivals_s)
        spread_s = statistics.median(abs(value - median_s) for value in self._last_arrivals_s)
        return min(max(median_s + _SPREAD_FACTOR * spread_s, self._lower_s), self._upper_s)

    def on_closed(self, last_arrival_s: float) -> None:
        """A group was closed whose last member came so long after the leader was ready."""
        self._last_arrivals_s.append(min(max(last_arrival_s, 0.0), self._upper_s))

    def on_late(self, arrival_s: float) -> None:
        """A member came after the group of the last round was closed."""
        if self._last_arrivals_s and arrival_s <= self._upper_s:
            self._last_arrivals_s[-1] = max(self._last_arrivals_s[-1], arrival_s)
