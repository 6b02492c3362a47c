"""Meters: bytes in a second that may be overdrawn by one piece, and quotas that may not (core).

Source: the token bucket of J. Turner: New directions in communications, IEEE Communications
Magazine 24(10), 1986.
"""

from __future__ import annotations

BURST_S = 0.25
"""A flow that paused may catch up on so much."""


class Pace:
    """A rate: every piece passes, and the debt that it leaves says how long to wait after it.

    So pieces of any size pass a slow flow whole, and those who share one wait alike.
    """

    def __init__(self, bytes_per_s: float, now_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._left = bytes_per_s * BURST_S
        self._since_s = now_s

    def take(self, size_bytes: int, now_s: float) -> float:
        """A piece passes: how many seconds to wait before the next one."""
        elapsed_s = max(now_s - self._since_s, 0.0)
        full = self._bytes_per_s * BURST_S
        self._left = min(full, self._left + elapsed_s * self._bytes_per_s) - size_bytes
        self._since_s = now_s
        return max(0.0, -self._left / self._bytes_per_s)


class Quota:
    """An amount that comes back little by little; what is not there does not pass."""

    def __init__(self, size_bytes: int, period_s: float, now_s: float) -> None:
        self._size_bytes = size_bytes
        self._per_s = size_bytes / period_s
        self._left = float(size_bytes)
        self._since_s = now_s

    def left_bytes(self, now_s: float) -> int:
        """How much may pass now."""
        elapsed_s = max(now_s - self._since_s, 0.0)
        self._left = min(float(self._size_bytes), self._left + elapsed_s * self._per_s)
        self._since_s = now_s
        return int(self._left)

    def take(self, size_bytes: int) -> None:
        """So much passes, which left_bytes() said there is."""
        self._left -= size_bytes
