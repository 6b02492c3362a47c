"""Rates: so many in a second by whomever, with a burst, for any number of callers (core).

Source: the token bucket of J. Turner: New directions in communications, IEEE Communications
Magazine 24(10), 1986.
"""

from __future__ import annotations

import math
from collections import OrderedDict

_KEYS_MAX = 4_096


class Rate:
    """One token bucket for each key; a key not seen for long has a full one again."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str, now_s: float) -> bool:
        """Whether one more may come now; if so, it counts."""
        if math.isinf(self._per_s):
            return True
        tokens, since_s = self._buckets.pop(key, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - since_s) * self._per_s)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now_s)
        if len(self._buckets) > _KEYS_MAX:
            self._buckets.popitem(last=False)
        return allowed
