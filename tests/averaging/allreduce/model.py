"""A world for the round protocol without crypto, threads or sockets: hosts, links and a clock.

The real cores (ballot, reduction, senders, pace, roster) run on hosts that crash, freeze and thaw,
over links that delay, lose, hold up and break what travels. One seed decides all chance, so what
went wrong once goes wrong again. `model_member` and `model_aggregator` act for the cores as the
services do; `model_faults` says what befalls whom; `model_checks` says what must never happen.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

Event = Callable[[], None]

DUPLICATE_SHARE = 0.03


class World:
    """Hosts and the links between them, on a clock that jumps from event to event."""

    def __init__(self, rng: random.Random, host_count: int) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.latency_s = rng.choice([0.001, 0.02, 0.1])
        self.loss = rng.choice([0.0, 0.0, 0.0, 0.1])
        """Of questions and answers; what travels on a stream is never lost alone."""
        self.reliable: frozenset[int] = frozenset()
        """Hosts between which nothing is lost."""
        self.hosts = [Host(self, number) for number in range(host_count)]
        self.cuts: dict[tuple[int, int], int] = {}
        """How many cuts lie on each one-way link."""
        self.stalled: list[Pipe] = []
        self.complaints: list[str] = []
        self.notes: list[str] = []
        """What happened, in words, for a failing schedule."""
        self.events_done = 0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def at(self, when_s: float, event: Event) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (max(when_s, self.now_s), next(self._numbers), event))

    def after(self, delay_s: float, event: Event) -> None:
        """Let something happen after a while."""
        self.at(self.now_s + delay_s, event)

    def run(self, over: Callable[[], bool], until_s: float) -> None:
        """Let things happen until that is so, or so late."""
        while self.events_done % 16 or not over():
            if not self._events or self._events[0][0] > until_s:
                self.now_s = max(self.now_s, until_s)
                return
            when_s, _, event = heapq.heappop(self._events)
            self.now_s = when_s
            self.events_done += 1
            event()

    def note(self, text: str) -> None:
        """Remember what happened."""
        self.notes.append(f"{self.now_s:7.3f} s  {text}")

    def complain(self, text: str) -> None:
        """Something that must never happen did."""
        self.note(f"WRONG: {text}")
        self.complaints.append(text)

    # --- links ----------------------------------------------------------------------------

    def delay_s(self) -> float:
        """How long the next message takes; now and then one takes very long."""
        slow = min(10.0, 0.3 / self.latency_s) if self.rng.random() < 0.01 else 1.0
        return self.latency_s * slow * (1 + self.rng.random())

    def is_cut(self, source: int, target: int) -> bool:
        """Whether nothing gets from one host to another."""
        return bool(self.cuts.get((source, target)))

    def cut(self, source: int, target: int) -> None:
        """From now on nothing gets from one host to another."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def heal(self, source: int, target: int) -> None:
        """Take one cut back; streams go on where they stopped."""
        self.cuts[source, target] -= 1
        stalled, self.stalled = self.stalled, []
        for pipe in stalled:
            pipe.pump()

    def post(self, source: int, target: int, event: Event) -> bool:
        """Send one datagram; says whether it will arrive, unless something happens meanwhile."""
        reliable = source in self.reliable and target in self.reliable
        if self.is_cut(source, target) or (not reliable and self.rng.random() < self.loss):
            return False
        host = self.hosts[target]

        def arrive() -> None:
            if not self.is_cut(source, target):
                host.do(event)

        self.after(self.delay_s(), arrive)
        return True


class Host:
    """One machine: alive, frozen or crashed."""

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.crashed = False
        self.frozen = False
        self.lies: frozenset[str] = frozenset()
        self.part_interval_s = 0.0
        """Pause between two parts that it sends."""
        self.result_interval_s = 0.0
        """Pause between two results."""
        self.trickle = 1.0
        """By which factor that pause grows with each part."""
        self._world = world
        self._waiting: list[tuple[Hashable, Event]] = []
        self._stale_s: float | None = None

    @property
    def well(self) -> bool:
        """Whether it is at work."""
        return not self.crashed and not self.frozen

    @property
    def honest(self) -> bool:
        """Whether it never lies."""
        return not self.lies

    def clock_s(self) -> float:
        """What it believes to be the time: just thawed, it may have read its clock before."""
        return self._world.now_s if self._stale_s is None else self._stale_s

    def do(self, event: Event, stream: Hashable = None) -> None:
        """Something reaches the host: a message or a timer. What is on one stream keeps order."""
        if self.crashed:
            return
        if self.frozen:
            self._waiting.append((stream, event))
        else:
            event()

    def after(self, delay_s: float, event: Event) -> None:
        """A timer of this host."""
        self._world.after(delay_s, lambda: self.do(event))

    def freeze(self) -> None:
        """Do nothing from now on; whatever comes waits."""
        if not self.crashed:
            self.frozen = True
            self._stale_s = self._world.now_s if self._world.rng.random() < 0.5 else None

    def thaw(self) -> None:
        """Go on: timers and messages are found in any order."""
        if not self.frozen:
            return
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        order = [stream for stream, _ in waiting]
        self._world.rng.shuffle(order)
        queues: dict[Hashable, deque[Event]] = {}
        for stream, event in waiting:
            queues.setdefault(stream, deque()).append(event)
        if None in queues:
            self._world.rng.shuffle(queues[None])
        for stream in order:
            self.do(queues[stream].popleft(), stream)
            self._stale_s = None
        self._stale_s = None

    def crash(self) -> None:
        """Do nothing any more."""
        self.crashed, self.frozen = True, False
        self._waiting.clear()


class Pipe:
    """One direction of a stream: what goes in comes out in order, late, or not at all."""

    def __init__(
        self, world: World, source: int, target: int, deliver: Callable[[Any], None]
    ) -> None:
        self.pending = 0
        """Messages that went in and that the other side has not dealt with."""
        self.broken = False
        self._world = world
        self._source = source
        self._target = target
        self._deliver = deliver
        self._queue: deque[tuple[float, Any]] = deque()
        self._last_due_s = 0.0
        self._scheduled = False

    def send(self, message: Any, transmission_s: float = 0.0) -> None:
        """Put a message in."""
        world = self._world
        if self.broken or world.hosts[self._source].crashed:
            return
        due_s = max(world.now_s + world.delay_s(), self._last_due_s) + transmission_s
        self._last_due_s = due_s
        self.pending += 1
        self._queue.append((due_s, message))
        if not self._scheduled:
            self._schedule()

    def pump(self) -> None:
        """Deliver what is due, unless the link is cut."""
        self._scheduled = False
        world = self._world
        if self.broken:
            return
        if world.is_cut(self._source, self._target):
            self._scheduled = True
            world.stalled.append(self)
            return
        host = world.hosts[self._target]
        while self._queue and self._queue[0][0] <= world.now_s:
            _, message = self._queue.popleft()
            host.do(lambda message=message: self._arrive(message), self)  # type: ignore[misc]
        if self._queue:
            self._schedule()

    def lose(self) -> None:
        """Nothing more comes out, not even what is under way."""
        self.broken = True
        self._queue.clear()

    def _arrive(self, message: Any) -> None:
        self._deliver(message)

    def _schedule(self) -> None:
        self._scheduled = True
        self._world.at(self._queue[0][0], self.pump)
