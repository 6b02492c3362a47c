"""Memory that is used again once nobody refers to it: fresh pages cost more than the copying.

A round needs the same few sizes again and again: chunks as they travel and as numbers, and the
whole result. The system's allocator gives such large blocks back and gets them page by page.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]

# Less comes from the allocator's own store, which does not give it back.
_LENT_BYTES_MIN: Final = 131_072
_SPARE_BYTES: Final = 67_108_864
"""Held beyond what was lent at the same time: sizes have their peaks at different times, and a few
chunks more should not cost a large result its pages."""


class _Lent(np.ndarray[Any, Any]):
    """What a borrower's views refer to, at the end; when it goes, its memory is free again."""


class Memory:
    """Lends memory to any thread; what it holds is bounded by what was once lent at one time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Array] = []
        """In the order in which they came back."""
        self._came_back: deque[Array] = deque()
        """Not counted yet: the last reference may go in any thread, and within the lock."""
        self._lent_bytes = self._most_lent_bytes = 0

    @property
    def free_bytes(self) -> int:
        """What is held for the next borrower."""
        with self._lock:
            self._count_returned()
            return sum(block.nbytes for block in self._free)

    def empty(self, count: int, dtype: DTypeLike) -> Array:
        """What numpy.empty() gives: an array of shape (count,) with anything in it."""
        dtype = np.dtype(dtype)
        size_bytes = count * dtype.itemsize
        if size_bytes < _LENT_BYTES_MIN:
            return np.empty(count, dtype)
        block = self._take(size_bytes)
        lent = block.view(_Lent)
        weakref.finalize(lent, self._came_back.append, block).atexit = False
        # A view of the memoryview refers to what was lent; numpy's own views may skip it.
        return np.frombuffer(lent.data, dtype)

    def _take(self, size_bytes: int) -> Array:
        with self._lock:
            self._count_returned()
            self._lent_bytes += size_bytes
            self._most_lent_bytes = max(self._most_lent_bytes, self._lent_bytes)
            for index in reversed(range(len(self._free))):
                # The last that came back is the likeliest to be in a cache.
                if self._free[index].nbytes == size_bytes:
                    return self._free.pop(index)
            free_bytes = sum(block.nbytes for block in self._free)
            may_be_free_bytes = self._most_lent_bytes - self._lent_bytes + _SPARE_BYTES
            while free_bytes > may_be_free_bytes:
                free_bytes -= self._free.pop(0).nbytes
        return np.empty(size_bytes, np.uint8)

    def _count_returned(self) -> None:
        while self._came_back:
            block = self._came_back.popleft()
            self._lent_bytes -= block.nbytes
            self._free.append(block)


MEMORY: Final = Memory()
"""That of the process, as its nodes and rounds take turns."""
