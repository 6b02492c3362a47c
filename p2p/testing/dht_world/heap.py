"""EventHeap: what happens when, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class EventHeap:
    """Calls in order of time; those of one time in the order in which they were asked for."""

    __slots__ = ("_events", "_order", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def after(self, delay_s: float, deed: Callable[..., None], *arguments: Any) -> None:
        """Call something later."""
        self._order += 1
        heappush(self._events, (self.now_s + delay_s, self._order, deed, arguments))

    def run_until(self, end_s: float) -> int:
        """Let time pass; returns how many events there were."""
        events, count = self._events, 0
        while events and events[0][0] <= end_s:
            self.now_s, _, deed, arguments = heappop(events)
            deed(*arguments)
            count += 1
        self.now_s = end_s
        return count
