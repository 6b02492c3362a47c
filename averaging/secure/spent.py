"""Which vectors were offered already, and so must never be offered again (core)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from blake3 import blake3

Array = np.ndarray[Any, Any]

# A day of steps of a second each takes three megabytes.
_KEPT_MAX: Final = 100_000


class SpentUpdates:
    """Digests of vectors that were masked and sent.

    Whoever knows two sums that differ in one member knows that member's vector. So a vector whose
    first masked element has left us is spent, whatever came of it: a member cannot know what the
    others revealed to each other.
    """

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def add(self, digest: bytes) -> None:
        """The vector of this digest is spent; the oldest of very many is forgotten."""
        self._digests[digest] = None
        if len(self._digests) > _KEPT_MAX:
            del self._digests[next(iter(self._digests))]

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests


def digest_of(vector: Array) -> bytes:
    """Names a vector: equal digests, equal bits."""
    return blake3(np.ascontiguousarray(vector).view(np.uint8).data).digest()
