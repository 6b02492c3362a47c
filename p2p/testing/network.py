"""SimNetwork: a whole network in one process, with links, faults and chance from one seed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import trio

from p2p.address import TcpAddress
from p2p.identity import Identity
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId
from p2p.relay.schema import CircuitLimit
from p2p.testing.paths import Link, Paths
from p2p.testing.reach import Reach, SimWhereabouts
from p2p.testing.transport import HandlerError, SimTransport

T = TypeVar("T")

_PORT = 4001
# The real host's keepalive notices a silent connection within 15 to 20 s.
_SILENCE_S_MAX = 20.0
_NETWORKS_MAX = 65_536


class SimNetwork:
    """Real nodes over simulated streams: time is trio's, all chance comes from one generator.

    Works in any trio program; run_sim() adds a jumping clock and a deterministic scheduler.
    The code of a crashed or frozen node runs on, only nothing of it gets through.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.handler_errors: list[HandlerError] = []
        """Errors that escaped from stream handlers, which real nodes log; best left empty."""
        self.silence_s_max = _SILENCE_S_MAX
        """Connections made from now on are lost when their path is cut for so long."""
        self._paths = Paths(random.Random(self.rng.getrandbits(64)))
        self._transports: dict[PeerId, SimTransport] = {}
        self._reach = Reach(self._transports)
        self._whereabouts: dict[PeerId, SimWhereabouts] = {}
        self._listeners: dict[tuple[str, int], SimTransport] = {}
        self._address_of: dict[PeerId, TcpAddress] = {}
        self._names: dict[PeerId, str] = {}

    @property
    def default_latency_s(self) -> float:
        """One way, between peers whose link has not been set."""
        return self._paths.default.latency_s

    @default_latency_s.setter
    def default_latency_s(self, latency_s: float) -> None:
        self._paths.default = replace(self._paths.default, latency_s=latency_s)

    @property
    def default_bytes_per_s(self) -> float:
        """Each way, between peers whose link has not been set; unlimited at first."""
        return self._paths.default.bytes_per_s

    @default_bytes_per_s.setter
    def default_bytes_per_s(self, bytes_per_s: float) -> None:
        self._paths.default = replace(self._paths.default, bytes_per_s=bytes_per_s)

    @property
    def jitter(self) -> float:
        """Each delay is stretched by a random part of itself, up to this one (0.5: by half)."""
        return self._paths.jitter

    @jitter.setter
    def jitter(self, jitter: float) -> None:
        self._paths.jitter = jitter

    @asynccontextmanager
    async def open_node(
        self,
        name: str = "",
        *,
        client_mode: bool = False,
        private: bool = False,
        identity: Identity | None = None,
        host: str | None = None,
        clock_skew_s: float = 0.0,
        dial_timeout_s: float = 10.0,
    ) -> AsyncIterator[Node]:
        """A node in this network while the block lasts.

        Args:
            name: for people, see name_of().
            client_mode: it cannot be dialed and has no addresses.
            private: see set_private().
            identity: to come back as a peer that was here before, at its address.
            host: an IPv4 address of its own; by default every node gets a /24 of its own.
            clock_skew_s: how much its wall clock is ahead.
        """
        identity = identity or Identity.generate(self.rng)
        peer_id = identity.peer_id
        if peer_id in self._transports:
            raise ValueError(f"{self.name_of(peer_id)} is in the network already")
        self._names[peer_id] = name or f"node-{len(self._names)}"
        async with open_service_nursery() as nursery:
            transport = SimTransport(
                peer_id,
                self._choose_address(peer_id, host),
                self._paths,
                self._listeners,
                self._reach,
                nursery,
                client_mode=client_mode,
                silence_s_max=self.silence_s_max,
                on_handler_error=self.handler_errors.append,
            )
            self._add(transport)
            self._whereabouts[peer_id] = SimWhereabouts()
            self._place(peer_id, private)
            if private:
                self._whereabouts[peer_id].on_verdict("private")
            try:
                node = Node(
                    identity,
                    transport,
                    nursery,
                    offload=offload_inline,
                    rng=random.Random(self.rng.getrandbits(64)),
                    client_mode=client_mode,
                    dial_timeout_s=dial_timeout_s,
                    clock_skew_s=clock_skew_s,
                )
                node.whereabouts = self._whereabouts[peer_id]
                yield node
            finally:
                transport.close()
                self._remove(transport)
                self._paths.thaw(peer_id)

    def name_of(self, peer_id: PeerId) -> str:
        """The name that a node was opened with, as traces and failures show it."""
        return self._names[peer_id]

    # Links

    def set_link(
        self,
        a: PeerId,
        b: PeerId,
        *,
        latency_s: float | None = None,
        bytes_per_s: float | None = None,
    ) -> None:
        """Change the link between two peers, both ways; what is not given stays."""
        link = self._paths.link(a, b)
        self._paths.set_link(
            a,
            b,
            Link(
                latency_s=link.latency_s if latency_s is None else latency_s,
                bytes_per_s=link.bytes_per_s if bytes_per_s is None else bytes_per_s,
            ),
        )

    # Routers and relays

    def set_private(self, peer_id: PeerId, private: bool = True) -> None:
        """Put a node behind a router that lets nobody in, or take the router away.

        Dials to its own address hang; it holds places at all relays, and tells those addresses.
        """
        self._place(peer_id, private)
        self._whereabouts[peer_id].on_verdict("private" if private else "public")

    def set_relay(
        self,
        peer_id: PeerId,
        *,
        bytes_each_way: int | None = 268_435_456,
        duration_s: int | None = 3_600,
    ) -> None:
        """Have a node pass others on to all private peers, and limit each circuit so.

        A circuit is cut when more bytes are sent; the duration is only told.
        """
        self._reach.relays[peer_id] = CircuitLimit(
            duration_s=duration_s, bytes_each_way=bytes_each_way
        )
        self._reach.update()

    @property
    def circuits_cut(self) -> int:
        """How often something was sent over a circuit beyond its limit."""
        return self._reach.circuits_cut

    def stop_relay(self, peer_id: PeerId) -> None:
        """Have it do so no more: its circuits break."""
        del self._reach.relays[peer_id]
        self._on_relay_gone(peer_id)

    def let_punch(self, a: PeerId, b: PeerId, possible: bool = True) -> None:
        """Whether two private peers that meet through a relay get a path without it soon after."""
        self._reach.let_punch(a, b, possible)

    def _place(self, peer_id: PeerId, private: bool) -> None:
        if private:
            self._reach.private[peer_id] = None
        else:
            self._reach.private.pop(peer_id, None)
        self._reach.update()

    def _on_relay_gone(self, peer_id: PeerId) -> None:
        self._reach.update()
        for transport in tuple(self._transports.values()):
            transport.on_relay_gone(peer_id)

    # Faults

    def crash(self, peer_id: PeerId) -> None:
        """Kill a node: its connections break at once, dials to it are refused.

        A node that is not there any more is left alone.
        """
        transport = self._transports.get(peer_id)
        if transport is not None:
            self._remove(transport)
            transport.crash()
            self.thaw(peer_id)

    def freeze(self, peer_id: PeerId) -> None:
        """Stop a node: connections stay open, but nothing gets to it or from it."""
        self._paths.freeze(peer_id)
        self._on_paths_changed()

    def thaw(self, peer_id: PeerId) -> None:
        """Let a frozen node go on; what has waited arrives now."""
        self._paths.thaw(peer_id)
        self._on_paths_changed()

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Cut all paths between groups; peers in none form one more. Replaces the last one.

        What is sent across waits and arrives after heal(); dials hang. After silence_s_max the
        connections across are lost, as the real host's keepalive finds them dead.
        """
        self._paths.partition(groups)
        self._on_paths_changed()

    def heal(self) -> None:
        """End the partition."""
        self._paths.partition(())
        self._on_paths_changed()

    def drop_connection(self, a: PeerId, b: PeerId) -> None:
        """Break the connections between two peers; they may connect again."""
        if a in self._transports:
            self._transports[a].drop(b)

    def _on_paths_changed(self) -> None:
        for transport in self._transports.values():
            transport.on_paths_changed()

    # Nodes

    def _choose_address(self, peer_id: PeerId, host: str | None) -> TcpAddress:
        if host is not None:
            address = TcpAddress("ip4", host, _PORT)
        elif peer_id in self._address_of:
            address = self._address_of[peer_id]
        else:
            index = len(self._address_of)
            assert index < _NETWORKS_MAX
            address = TcpAddress("ip4", f"10.{index >> 8}.{index & 255}.1", _PORT)
        self._address_of[peer_id] = address
        return address

    def _add(self, transport: SimTransport) -> None:
        place = (transport.listening.host, transport.listening.port)
        if transport.addresses:
            if place in self._listeners:
                raise ValueError(f"{transport.listening} is taken")
            self._listeners[place] = transport
        self._transports[transport.peer_id] = transport

    def _remove(self, transport: SimTransport) -> None:
        if self._transports.get(transport.peer_id) is transport:
            del self._transports[transport.peer_id]
            place = (transport.listening.host, transport.listening.port)
            if self._listeners.get(place) is transport:
                del self._listeners[place]
            if transport.peer_id in self._reach.relays:
                self._on_relay_gone(transport.peer_id)


async def offload_inline(function: Callable[..., T], *args: Any) -> T:
    """Run a heavy function where a real node would use a thread."""
    await trio.lowlevel.checkpoint()
    return function(*args)
