"""Mailbox and Lane: simulated deliveries, in order along a lane and on time at a mailbox."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import trio

from p2p.peer_id import PeerId
from p2p.testing.paths import Link, Paths

# On a slow link a sender hands over this much time's worth of bytes at once, and waits while
# more than that is ahead of it, so that the streams of a connection take turns.
_PIECE_S = 0.02
_PIECE_BYTES_MIN = 1_024
_PIECE_BYTES_MAX = 65_536


class Awaited(Protocol):
    """Something that a mailbox shall attend to at a certain time."""

    def on_due(self, now_s: float) -> None:
        """The time has come."""


class Mailbox:
    """Attends to all that arrives at one node, in one task that sleeps until the next is due."""

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self._awaited: list[tuple[float, int, Awaited]] = []
        self._count = itertools.count()
        self._nap = trio.CancelScope()
        self._never = trio.Event()

    def expect(self, awaited: Awaited, due_s: float) -> None:
        """Attend to something at a time."""
        heapq.heappush(self._awaited, (due_s, next(self._count), awaited))
        if due_s < self._nap.deadline:
            self._nap.deadline = due_s

    async def run(self) -> None:
        """Attend to everything when it is due, until cancelled."""
        awaited = self._awaited
        while True:
            with trio.CancelScope(deadline=awaited[0][0] if awaited else math.inf) as self._nap:
                await self._never.wait()
            now_s = trio.current_time()
            while awaited and awaited[0][0] <= now_s:
                heapq.heappop(awaited)[2].on_due(now_s)


class Lane:
    """One direction of a connection: what is posted arrives in order, after the link's delay.

    While the path is cut everything waits, as TCP would keep sending it again.
    """

    def __init__(
        self,
        paths: Paths,
        source: Mailbox,
        destination: Mailbox,
        *,
        relay: PeerId | None = None,
        bytes_max: float = math.inf,
    ) -> None:
        self.relay = relay
        """Through whom it leads, if not straight."""
        self.on_full: Callable[[], None] = lambda: None
        """Called when more than bytes_max are sent."""
        self._bytes_left = bytes_max
        self._paths = paths
        self.source = source
        self._destination = destination
        self._under_way: deque[tuple[float, Callable[[Any], None], Any]] = deque()
        self._busy_until_s = 0.0
        self._last_due_s = -1.0

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through now."""
        return self._paths.is_cut(self.source.peer_id, self._destination.peer_id, self.relay)

    @property
    def _link(self) -> Link:
        return self._paths.link(self.source.peer_id, self._destination.peer_id, self.relay)

    @property
    def source_is_frozen(self) -> bool:
        """Whether the sending node is frozen."""
        return self._paths.is_frozen(self.source.peer_id)

    def turn(self) -> tuple[float, float]:
        """When the next piece may be posted, and how many bytes it may have."""
        rate = self._link.bytes_per_s
        if rate == math.inf:
            return 0.0, math.inf
        piece = min(_PIECE_BYTES_MAX, max(_PIECE_BYTES_MIN, rate * _PIECE_S))
        return self._busy_until_s - _PIECE_S, piece // 1

    def post(self, callback: Callable[[Any], None], argument: Any, size_bytes: int = 0) -> None:
        """Have the callback called at the other end, after all that was posted before."""
        paths, link = self._paths, self._link
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            self.on_full()
            return
        now_s = trio.current_time()
        if self._busy_until_s < now_s:
            self._busy_until_s = now_s
        self._busy_until_s += size_bytes / link.bytes_per_s
        due_s = max(self._last_due_s, self._busy_until_s + paths.delay_s(link))
        self._under_way.append((due_s, callback, argument))
        # One visit delivers all that is due, so a second at the same time is not needed.
        if due_s > self._last_due_s or len(self._under_way) == 1:
            self._destination.expect(self, due_s)
        self._last_due_s = due_s

    def on_due(self, now_s: float) -> None:
        """Deliver what has arrived, unless the path is cut."""
        if self.is_cut:
            return
        under_way = self._under_way
        while under_way and under_way[0][0] <= now_s:
            _, callback, argument = under_way.popleft()
            callback(argument)

    def resume(self) -> None:
        """The path is whole again: what had to wait arrives after one more delay."""
        if self._under_way and not self.is_cut:
            due_s = trio.current_time() + self._paths.delay_s(self._link)
            self._destination.expect(self, due_s)
