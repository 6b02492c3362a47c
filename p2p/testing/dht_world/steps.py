"""Steps: what takes several waits, written one after the other, without trio."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias, TypeVar

from p2p.dht.lookup import Lookup
from p2p.dht.placement import Placement
from p2p.dht.routing import Contact
from p2p.dht.store import StoreCode
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
        lookup: Lookup,
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
        if lookup.done:
            resume, self._resume = self._resume, None
            for call in self._calls:
                call.done = None
            self._calls.clear()
            if resume is not None:
                resume(lookup)
            return
        for contact in lookup.next_queries(self._heap.now_s):
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
    """Drives one placement: offers a record until it has its places or nobody is left."""

    __slots__ = ("_offer", "_placement", "_resume", "_under_way")

    def __init__(
        self,
        placement: Placement,
        offer: Callable[[Contact | None, Callable[[StoreCode, int], None]], None],
        resume: Resume,
    ) -> None:
        self._placement, self._offer, self._resume = placement, offer, resume
        self._under_way = 0

    def go_on(self) -> None:
        """Offer it to whom the placement names; with nobody left the end is told."""
        contacts = self._placement.next_offers()
        self._under_way += len(contacts)
        if not self._under_way:
            self._resume(None)
        for contact in contacts:
            self._offer(contact, partial(self._on_outcome, contact))

    def _on_outcome(self, contact: Contact | None, code: StoreCode, sequence: int) -> None:
        self._under_way -= 1
        self._placement.on_outcome(contact, code, sequence)
        self.go_on()
