"""Shares: what each peer, or address range, has brought of all that a store holds (core).

Who brought most is asked for only when a store is full, but then perhaps for each record that is
offered, and there may be as many shares as records. So it is kept on a heap from the first such
question on: each share has an entry there that is no smaller than it is, and what has shrunk since
is put in its place when it comes up.
"""

from __future__ import annotations

from collections.abc import ValuesView
from dataclasses import dataclass, field
from heapq import heapify, heappush, heapreplace
from typing import TypeAlias

Slot: TypeAlias = tuple[int, str | None]
"""A key and a subkey."""

# The heap is built anew when it has become so many times longer than there are shares.
_HEAP_FACTOR = 4
_HEAP_SPARE = 64


@dataclass(slots=True)
class Share:
    """What one peer has delivered, the oldest first."""

    size_bytes: int = 0
    slots: dict[Slot, None] = field(default_factory=dict)


class Shares:
    """Shares by whom they are charged to."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}
        self._heap: list[tuple[int, str]] | None = None
        """Sizes, negative, and whose they are; None while nobody asks."""
        self.count = 0
        """Records of all together."""
        self.size_bytes = 0

    def of(self, source: str) -> Share:
        """The share of one; an empty one if it has brought nothing."""
        return self._shares.get(source) or Share()

    def all(self) -> ValuesView[Share]:
        """All shares, in no order that means anything."""
        return self._shares.values()

    def add(self, source: str, slot: Slot, size_bytes: int) -> None:
        """One has brought a record."""
        share = self._shares.get(source)
        if share is None:
            share = self._shares[source] = Share()
        share.slots[slot] = None
        share.size_bytes += size_bytes
        self.count += 1
        self.size_bytes += size_bytes
        if self._heap is not None:
            heappush(self._heap, (-share.size_bytes, source))
            if len(self._heap) > _HEAP_FACTOR * len(self._shares) + _HEAP_SPARE:
                self._heap = None

    def remove(self, source: str, slot: Slot, size_bytes: int) -> None:
        """A record that one has brought is gone."""
        share = self._shares[source]
        del share.slots[slot]
        share.size_bytes -= size_bytes
        if not share.slots:
            del self._shares[source]
        self.count -= 1
        self.size_bytes -= size_bytes

    def heaviest(self) -> tuple[str, Share]:
        """Who has brought most bytes, and its share; there must be one."""
        assert self._shares
        if self._heap is None:
            self._heap = [(-share.size_bytes, source) for source, share in self._shares.items()]
            heapify(self._heap)
        while True:
            negative, source = self._heap[0]
            share = self._shares.get(source)
            if share is not None and share.size_bytes == -negative:
                return source, share
            # It has shrunk since, or is gone.
            heapreplace(self._heap, (-self.of(source).size_bytes, source))
