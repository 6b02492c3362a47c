"""Steps: what takes several waits, written one after the other, without trio."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias, TypeVar

from p2p.dht import lookup as lookups
from p2p.dht.contact import Contact
from p2p.dht.offer import Offer
from p2p.peer_id import PeerId
from p2p.testing.dht_world.heap import EventHeap
from p2p.testing.dht_world.network import Call

T = TypeVar("T")

Resume: TypeAlias = Callable[[Any], None]
Wait: TypeAlias = Callable[[Resume], None]
"""Something to wait for: it is given what to call, with its outcome, when it is there."""
Steps: TypeAlias = Generator[float | Wait, Any, T]
"""Yields seconds to sleep, or something to wait for."""
StartCall: TypeAlias = Callable[[Contact, Resume], Call]


def all_of(waits: list[Wait]) -> Wait:
    """Wait until all are there; the outcomes are forgotten."""

    def wait(resume: Resume) -> None:
        left = len(waits)

        def on_one(_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                resume(None)

        for one in waits:
            one(on_one)
        if not waits:
            resume(None)

    return wait


class Search:
    """Drives one lookup as the service's client does; calls under way at its end are forgotten."""

    __slots__ = ("_calls", "_deadline_set", "_heap", "_lookup", "_on_answer", "_resume", "_start")

    def __init__(
        self,
        heap: EventHeap,
        lookup: lookups.Search,
        start: StartCall,
        on_answer: Callable[[Contact, Any], None],
        resume: Resume,
    ) -> None:
        self._heap, self._lookup, self._start = heap, lookup, start
        self._on_answer = on_answer
        self._resume: Resume | None = resume
        self._calls: list[Call] = []
        self._deadline_set = False

    def go_on(self) -> None:
        """Ask whom the lookup names, until it is done; then the result is given back."""
        lookup = self._lookup
        asked = lookup.next_queries(self._heap.now_s)
        if not asked and lookup.done:
            resume, self._resume = self._resume, None
            for call in self._calls:
                call.done = None
            self._calls.clear()
            if resume is not None:
                resume(lookup)
            return
        for contact in asked:
            self._calls.append(self._start(contact, partial(self._on_outcome, contact)))
        if not self._deadline_set:
            due_s = lookup.deadline_s
            if due_s is not None:
                # Later queries are due later: one event at a time is enough.
                self._deadline_set = True
                self._heap.after(max(due_s - self._heap.now_s, 0.0), self._on_deadline)

    def _on_outcome(self, contact: Contact, answer: Any) -> None:
        if self._resume is None:
            return
        if answer is None:
            self._lookup.on_failure(contact.peer_id)
        else:
            self._on_answer(contact, answer)
        self.go_on()

    def _on_deadline(self) -> None:
        self._deadline_set = False
        if self._resume is not None:
            self._lookup.on_deadline(self._heap.now_s)
            self.go_on()


class Offering:
    """Drives one offer as the service's writer does; whoever stalls loses its place."""

    __slots__ = (
        "_calls",
        "_heap",
        "_hedge_s",
        "_offer",
        "_on_stall",
        "_resume",
        "_stall_s",
        "_start",
    )

    def __init__(
        self,
        heap: EventHeap,
        offer: Offer,
        start: Callable[[PeerId, Resume], Call | None],
        on_stall: Callable[[PeerId], None],
        *,
        hedge_s: float,
        stall_s: float,
        resume: Resume,
    ) -> None:
        self._heap, self._offer, self._start, self._on_stall = heap, offer, start, on_stall
        self._hedge_s, self._stall_s = hedge_s, stall_s
        self._resume: Resume | None = resume
        self._calls: dict[PeerId, Call] = {}

    def go_on(self) -> None:
        """Offer it to whom the offer names, until it is settled; then the end is told."""
        while not self._offer.settled:
            peers = self._offer.next_peers()
            if not peers:
                return
            for peer_id in peers:
                call = self._start(peer_id, partial(self._on_outcome, peer_id))
                if call is not None:
                    self._calls[peer_id] = call
                    self._heap.after(self._hedge_s, self._on_time, peer_id, False)
                    self._heap.after(self._stall_s, self._on_time, peer_id, True)
        resume, self._resume = self._resume, None
        for call in self._calls.values():
            call.done = None
        self._calls.clear()
        if resume is not None:
            resume(None)

    def _on_outcome(self, peer_id: PeerId, answer: Any) -> None:
        self._calls.pop(peer_id, None)
        if answer is None:
            self._offer.on_failure(peer_id, "no answer")
        else:
            code, sequence = answer[0]
            self._offer.on_answer(peer_id, code, sequence, "")
        self.go_on()

    def _on_time(self, peer_id: PeerId, stalled: bool) -> None:
        call = self._calls.get(peer_id)
        if call is None:
            return
        if stalled:
            call.done = None
            del self._calls[peer_id]
            self._on_stall(peer_id)
            self._offer.on_failure(peer_id, "silent")
        else:
            self._offer.on_late(peer_id)
        self.go_on()
