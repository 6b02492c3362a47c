"""The simulated network: calls between peers that arrive late, not at all, or at nobody."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from p2p.dht.contact import Contact
from p2p.peer_id import PeerId
from p2p.testing.dht_world.heap import EventHeap
from p2p.testing.dht_world.latency import Place, one_way_s

# TCP, Noise, and the agreement on what is spoken.
CONNECT_ROUND_TRIPS = 3
# A node of default configuration takes so many connections.
CONNECTIONS_MAX = 512
# A connection whose other end vanished is closed after so long by its keepalive.
KEEPALIVE_S = 15.0


class Kind(IntEnum):
    """What is asked."""

    PING = 0
    FIND_NODE = 1
    FIND_VALUE = 2
    STORE = 3
    LEAVE = 4


class Purpose(IntEnum):
    """What a call is for."""

    UPKEEP = 0
    """Joining, pings, refreshing, handing records on."""
    PUT = 1
    GET = 2


class Host(Protocol):
    """What the network needs to know of a peer."""

    contact: Contact
    place: Place
    side: int
    alive: bool
    links: dict[PeerId, None]
    served: int

    def serve(self, caller: Contact, kind: Kind, request: Any) -> Any:
        """The answer, or None for silence."""

    def on_answer(self, contact: Contact, took_s: float) -> None:
        """A peer answered us, after so long."""

    def on_failure(self, contact: Contact) -> None:
        """A peer did not."""


class Call:
    """A question under way; forgotten by whoever asked when ``done`` is None."""

    __slots__ = ("asked_at_s", "caller", "contact", "done", "kind", "request")

    def __init__(
        self,
        caller: Host,
        contact: Contact,
        kind: Kind,
        request: Any,
        done: Callable[[Any], None] | None,
        asked_at_s: float,
    ) -> None:
        self.caller, self.contact, self.kind = caller, contact, kind
        self.request, self.done, self.asked_at_s = request, done, asked_at_s


class SimulatedCalls:
    """Carries calls; each fails in the caller's time if anything at all goes wrong."""

    def __init__(
        self, heap: EventHeap, rng: random.Random, *, loss: float, timeout_s: float
    ) -> None:
        self.heap = heap
        self.hosts: dict[PeerId, Host] = {}
        self.cut = False
        """Whether the two sides cannot hear each other."""
        self.calls: list[list[int]] = []
        """Calls by purpose and kind."""
        self.answers = 0
        self.forget()
        self._random = rng.random
        self._loss, self._timeout_s = loss, timeout_s

    def forget(self) -> None:
        """Count anew."""
        self.calls = [[0] * len(Kind) for _ in Purpose]
        self.answers = 0

    def call(
        self,
        caller: Host,
        contact: Contact,
        kind: Kind,
        request: Any,
        purpose: Purpose,
        done: Callable[[Any], None],
    ) -> Call:
        """Ask a peer; ``done`` is called with its answer, or with None when it failed."""
        call = Call(caller, contact, kind, request, done, self.heap.now_s)
        if not caller.alive:
            # A lookup's deadline passed after its peer was gone.
            return call
        self.calls[purpose][kind] += 1
        host = self.hosts.get(contact.peer_id)
        if (
            host is None
            or not host.alive
            or (self.cut and host.side != caller.side)
            or contact.addresses != host.contact.addresses
            or self._random() < self._loss
        ):
            self.heap.after(self._timeout_s, self._fail, call)
            return call
        delay_s = one_way_s(caller.place, host.place, self._random())
        if contact.peer_id not in caller.links:
            delay_s *= 1 + 2 * CONNECT_ROUND_TRIPS
        self.heap.after(delay_s, self._arrive, call, host)
        return call

    def _arrive(self, call: Call, host: Host) -> None:
        caller = call.caller
        if host.alive and not (self.cut and host.side != caller.side):
            self._link(caller, host)
            host.served += 1
            answer = host.serve(caller.contact, call.kind, call.request)
            if answer is not None:
                self.answers += 1
                if self._random() >= self._loss:
                    back_s = one_way_s(host.place, caller.place, self._random())
                    self.heap.after(back_s, self._answered, call, answer)
                    return
        left_s = call.asked_at_s + self._timeout_s - self.heap.now_s
        self.heap.after(max(left_s, 0.0), self._fail, call)

    def _answered(self, call: Call, answer: Any) -> None:
        if call.done is not None and call.caller.alive:
            call.caller.on_answer(call.contact, self.heap.now_s - call.asked_at_s)
            call.done(answer)

    def _fail(self, call: Call) -> None:
        if call.done is not None and call.caller.alive:
            call.caller.on_failure(call.contact)
            call.done(None)

    # --- connections --------------------------------------------------------------------------

    def _link(self, one: Host, other: Host) -> None:
        """Both are connected from now on; who has too many closes its oldest connection."""
        if other.contact.peer_id in one.links:
            return
        for host, peer in ((one, other), (other, one)):
            host.links[peer.contact.peer_id] = None
            if len(host.links) > CONNECTIONS_MAX:
                oldest = next(iter(host.links))
                del host.links[oldest]
                self.hosts[oldest].links.pop(host.contact.peer_id, None)

    def vanish(self, host: Host) -> None:
        """A host is gone; the others notice by their keepalive."""
        host.alive = False
        self.heap.after(KEEPALIVE_S, self._unlink, host)

    def _unlink(self, host: Host) -> None:
        for peer_id in host.links:
            self.hosts[peer_id].links.pop(host.contact.peer_id, None)
        host.links.clear()
        del self.hosts[host.contact.peer_id]
