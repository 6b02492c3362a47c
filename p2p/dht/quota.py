"""Quotas: how many records a peer may have us check, so that a flood costs us little (core).

Each peer, and each public address range, has a bucket of tokens that refills steadily. A record
takes one, and an invalid one, whose signature was checked in vain, a handful more. What the store
holds of a peer is bounded besides.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

INVALID_COST = 16
"""Honest peers check what they pass on, and offer next to nothing invalid."""
# Those whose buckets are not full; who is forgotten has a full one again.
_BUCKETS_MAX = 4_096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Quotas:
    """Token buckets by peer, or by address range."""

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, who: str, count: int, now_s: float) -> int:
        """How many of so many records are to be looked at; they are paid for."""
        bucket = self._bucket(who, now_s)
        admitted = min(count, max(0, int(bucket.tokens)))
        bucket.tokens -= admitted
        return admitted

    def on_invalid(self, who: str, count: int, now_s: float) -> None:
        """So many records were invalid; a peer may get into debt by them, of one burst at most."""
        bucket = self._bucket(who, now_s)
        bucket.tokens = max(bucket.tokens - count * (INVALID_COST - 1), -float(self._burst))

    def _bucket(self, who: str, now_s: float) -> _Bucket:
        bucket = self._buckets.pop(who, None) or _Bucket(self._burst, now_s)
        gained = max(0.0, now_s - bucket.at_s) * self._per_s
        bucket.tokens = min(bucket.tokens + gained, self._burst)
        bucket.at_s = now_s
        self._buckets[who] = bucket
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return bucket
