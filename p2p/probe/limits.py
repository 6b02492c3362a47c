"""How much strangers may measure with us (core).

A measurement is refused while too many run, or when its peer, its network or all together have
used up their bytes. What was used comes back steadily, over an hour. Keys cost nothing, so what
counts in the end is the limit of all together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from p2p.peer_id import PeerId

_HOUR_S = 3600.0
_PEERS_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class BandwidthLimits:
    """What others may measure with us; lines differ, and some are paid by the byte."""

    at_once_max: int = 2
    """Measurements under way; more would measure each other."""
    measurement_bytes_max: int = 67_108_864
    """What one moves: 5 s at 100 Mbit/s."""
    peer_bytes_per_hour_max: int = 268_435_456
    """What one peer may move: both directions, twice."""
    bytes_per_hour_max: int = 2_147_483_648
    """What all together may move; 0 serves nobody."""

    def __post_init__(self) -> None:
        for name in ("at_once_max", "measurement_bytes_max", "peer_bytes_per_hour_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
        if self.bytes_per_hour_max < 0:
            raise ValueError("bytes_per_hour_max must not be negative")


class _Bucket:
    """Bytes that were used and come back within an hour."""

    def __init__(self, size_bytes: int, now_s: float) -> None:
        self.size_bytes = size_bytes
        self._used_bytes = 0.0
        self._at_s = now_s

    def left_bytes(self, now_s: float) -> int:
        back = (now_s - self._at_s) * self.size_bytes / _HOUR_S
        self._used_bytes = max(0.0, self._used_bytes - max(0.0, back))
        self._at_s = max(self._at_s, now_s)
        return int(self.size_bytes - self._used_bytes)

    def take(self, size_bytes: int) -> None:
        self._used_bytes += size_bytes


@dataclass(frozen=True)
class Grant:
    """A measurement that may go on."""

    number: int
    peer_id: PeerId
    size_bytes_max: int


class BandwidthGuard:
    """Grants measurements within the limits."""

    def __init__(self, limits: BandwidthLimits) -> None:
        self._limits = limits
        self._all = _Bucket(limits.bytes_per_hour_max, 0.0)
        self._buckets: OrderedDict[PeerId, _Bucket] = OrderedDict()
        self._open: dict[int, Grant] = {}
        self._next_number = 0

    def on_asked(self, peer_id: PeerId, now_s: float) -> Grant | str:
        """A peer wants to measure: how much it may move, or why not now."""
        if any(grant.peer_id == peer_id for grant in self._open.values()):
            return "one measurement at a time"
        if len(self._open) >= self._limits.at_once_max:
            return "others measure now; try again in some seconds"
        bucket = self._bucket_of(peer_id, now_s)
        # All that is under way counts as moved, so that it cannot be promised twice.
        promised = sum(grant.size_bytes_max for grant in self._open.values())
        size_bytes_max = min(
            self._limits.measurement_bytes_max,
            bucket.left_bytes(now_s),
            self._all.left_bytes(now_s) - promised,
        )
        # Too little to tell a rate by is as good as nothing.
        if size_bytes_max < self._limits.measurement_bytes_max // 8:
            return "enough was measured with this peer for now; try another one"
        grant = Grant(self._next_number, peer_id, size_bytes_max)
        self._next_number += 1
        self._open[grant.number] = grant
        return grant

    def on_ended(self, grant: Grant, moved_bytes: int, now_s: float) -> None:
        """A measurement has ended, however it did."""
        if self._open.pop(grant.number, None) is not None:
            self._bucket_of(grant.peer_id, now_s).take(moved_bytes)
            self._all.take(moved_bytes)

    def _bucket_of(self, peer_id: PeerId, now_s: float) -> _Bucket:
        bucket = self._buckets.pop(peer_id, None)
        if bucket is None:
            bucket = _Bucket(self._limits.peer_bytes_per_hour_max, now_s)
        self._buckets[peer_id] = bucket
        if len(self._buckets) > _PEERS_MAX:
            self._buckets.popitem(last=False)
        return bucket
