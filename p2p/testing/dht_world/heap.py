"""EventHeap: what happens when, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeAlias

_Event: TypeAlias = tuple[float, int, Callable[..., None], tuple[Any, ...]]

# Of some ten thousand peers: a few dozen events each.
_SLOTS_PER_S: Final = 100


class EventHeap:
    """Calls in order of time; those of one time in the order in which they were asked for.

    Only the calls of the present slot of time are in a heap. Those of later ones wait unsorted, so
    that a million of them cost no more than a few: a heap of all would be walked through memory
    that no cache holds.
    """

    __slots__ = ("_later", "_order", "_present", "_slot", "_slots", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._present: list[_Event] = []
        self._slot = 0
        """Of the heap; slots before it are over."""
        self._later: dict[int, list[_Event]] = {}
        self._slots: list[int] = []
        """A heap of the later ones."""
        self._order = 0

    def after(self, delay_s: float, deed: Callable[..., None], *arguments: Any) -> None:
        """Call something later."""
        self._order += 1
        at_s = self.now_s + delay_s
        event = at_s, self._order, deed, arguments
        slot = int(at_s * _SLOTS_PER_S)
        if slot <= self._slot:
            heappush(self._present, event)
        elif slot in self._later:
            self._later[slot].append(event)
        else:
            self._later[slot] = [event]
            heappush(self._slots, slot)

    def run_until(self, end_s: float) -> int:
        """Let time pass; returns how many events there were."""
        count, end_slot = 0, int(end_s * _SLOTS_PER_S)
        while True:
            present = self._present
            while present and present[0][0] <= end_s:
                self.now_s, _, deed, arguments = heappop(present)
                deed(*arguments)
                count += 1
            if present or not self._slots or self._slots[0] > end_slot:
                self.now_s = end_s
                return count
            self._slot = heappop(self._slots)
            self._present = self._later.pop(self._slot)
            heapify(self._present)
