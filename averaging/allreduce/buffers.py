"""Buffers: large memory that is used again, since fresh pages cost more than the copying."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

# Of each size: what lingers after a round, and one to work with.
_KEPT_MAX: Final = 3


class Buffers:
    """Gives out buffers by size, and keeps a few of those that come back."""

    def __init__(self) -> None:
        self._free: dict[int, list[Array]] = {}

    def take(self, size_bytes: int) -> Array:
        """A buffer of uint8, shape (size_bytes,), with anything in it."""
        free = self._free.get(size_bytes)
        return free.pop() if free else np.empty(size_bytes, np.uint8)

    def give_back(self, buffer: Array) -> None:
        """Nobody reads or writes this buffer any more."""
        free = self._free.setdefault(len(buffer), [])
        if len(free) < _KEPT_MAX:
            free.append(buffer)
