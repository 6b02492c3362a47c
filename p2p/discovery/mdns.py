"""mDNS: finds peers of the same run on the networks that this machine is on, and is found there.

It speaks libp2p's mDNS over a socket of trio's, so nothing blocks and no thread is needed: all
that it takes of DNS is one question and one answer. Multicast goes over IPv4; the addresses told
may be of either kind. Without a run, js-libp2p and go-libp2p peers are found, too.

Source: libp2p specification, discovery/mdns; RFC 6762.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p.discovery.interfaces import interfaces
from p2p.discovery.lan import LIFE_S, Found, Lan
from p2p.discovery.networks import Interface
from p2p.errors import ListenError, UnreachableError
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short

logger = logging.getLogger(__name__)

_GROUP = "224.0.0.251"
_PORT = 5353
_TTL = 255
_DATAGRAM_BYTES_MAX = 9001
_NETWORK_LOOK_S = 10.0
_FAREWELL_S = 1.0
# A flood on the wire must not take the loop: so many datagrams are looked at in a second.
_DATAGRAMS_PER_S_MAX = 200


class Mdns:
    """The peers on our networks, as far as they have been heard of."""

    def __init__(self, node: Node, lan: Lan, sock: trio.socket.SocketType) -> None:
        self._node = node
        self._lan = lan
        self._socket = sock
        self._joined: tuple[Interface, ...] = ()
        self._sending = trio.Lock()
        self._has_found = trio.Event()

    @property
    def peers(self) -> dict[PeerId, tuple[str, ...]]:
        """Each peer heard of in the last minutes, and where it can be dialed."""
        known = self._lan.known(trio.current_time())
        return {peer_id: tuple(map(str, addresses)) for peer_id, addresses in known.items()}

    async def wait_found(self) -> None:
        """Return as soon as one peer has been found."""
        await self._has_found.wait()

    async def enter(self, *, within_s: float) -> tuple[str, ...]:
        """Wait for a peer that can be connected to; its addresses, or none when the time is up."""
        with trio.move_on_after(within_s):
            await self.wait_found()
            for peer_id, addresses in self.peers.items():
                try:
                    await self._node.connect(peer_id, addresses)
                except UnreachableError:
                    # It went, or somebody invented it; the next one may be real.
                    continue
                return addresses
        return ()

    async def run(self) -> None:
        """Ask, listen and answer, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            nursery.start_soon(self._listen)
            nursery.start_soon(self._follow_network)

    async def announce(self, *, farewell: bool = False) -> None:
        """Tell each network where we are there, or that we go."""
        listening = self._node.listening()
        life_s = 0 if farewell else LIFE_S
        for interface in self._joined:
            await self._send(self._lan.advert(listening, interface, life_s=life_s), interface)

    def join_groups(self) -> None:
        """Be part of the group on each interface that matters to us now."""
        joined = _interfaces_for(self._node, interfaces())
        for interface in joined:
            if interface in self._joined or ":" in interface.host:
                continue
            membership = socket.inet_aton(_GROUP) + socket.inet_aton(interface.host)
            try:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            except OSError as exc:
                # A member already (of an address that went and came), or no multicast there.
                logger.debug("mdns_not_joined interface=%s cause=%s", interface.name, exc)
        self._joined = joined

    async def _ask(self) -> None:
        await self.announce()
        while True:
            question, next_s = self._lan.next_question(trio.current_time())
            for interface in self._joined:
                await self._send(question, interface)
            with trio.move_on_at(next_s):
                await trio.sleep(_NETWORK_LOOK_S)

    async def _listen(self) -> None:
        while True:
            began_s = trio.current_time()
            for _ in range(_DATAGRAMS_PER_S_MAX):
                data, source = await self._socket.recvfrom(_DATAGRAM_BYTES_MAX)
                await self._on_datagram(data, source[0])
            await trio.sleep_until(began_s + 1.0)

    async def _on_datagram(self, data: bytes, source_host: str) -> None:
        outcome = self._lan.on_datagram_untrusted(
            data, source_host, self._joined, self._node.listening(), trio.current_time()
        )
        for found in outcome.found:
            self._on_found(found)
        if outcome.interface is not None:
            await self._send(outcome.answer, outcome.interface)

    def _on_found(self, found: Found) -> None:
        addresses = tuple(map(str, found.addresses))
        logger.info("mdns_found peer=%s addresses=%d", short(found.peer_id), len(addresses))
        self._node.add_addresses(found.peer_id, addresses)
        self._has_found.set()

    async def _follow_network(self) -> None:
        while True:
            await trio.sleep(_NETWORK_LOOK_S)
            before = self._joined
            self.join_groups()
            if self._joined != before:
                self._lan.on_network_changed()
                await self.announce()

    async def _send(self, data: bytes, interface: Interface) -> None:
        if not data or ":" in interface.host:
            return
        async with self._sending:
            # The interface is a setting of the socket, so one sends after the other.
            out = socket.inet_aton(interface.host)
            try:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
                await self._socket.sendto(data, (_GROUP, _PORT))
            except OSError as exc:
                logger.debug("mdns_not_sent interface=%s cause=%s", interface.name, exc)


def _interfaces_for(node: Node, found: tuple[Interface, ...]) -> tuple[Interface, ...]:
    """Loopback for a node that keeps to this machine, else all other interfaces."""
    listening = node.listening()
    keeps_to_itself = bool(listening) and all(
        address.kind in ("ip4", "ip6") and ipaddress.ip_address(address.host).is_loopback
        for address in listening
    )
    return tuple(interface for interface in found if interface.is_loopback == keeps_to_itself)


def _open_socket() -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # Other programs of this machine listen to mDNS as well.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    except BaseException:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def open_mdns(node: Node, *, run: str | None = None) -> AsyncIterator[Mdns]:
    """Find and be found on this machine's networks while the block lasts.

    The addresses of peers found go to the node, which dials none of them by itself. A node that
    listens on loopback only keeps to loopback here, too.

    Args:
        run: whose peers; None: any libp2p peer.

    Raises:
        ListenError: port 5353 cannot be shared with the program that uses it.
    """
    sock = _open_socket()
    with sock:
        try:
            await sock.bind(("", _PORT))
        except OSError as exc:
            raise ListenError(
                f"peers on this network cannot be looked for: UDP port {_PORT} is in use by a "
                f"program that does not share it ({exc.strerror})"
            ) from exc
        mdns = Mdns(node, Lan(node.peer_id, run, node.rng), sock)
        mdns.join_groups()
        async with open_service_nursery() as nursery:
            nursery.start_soon(mdns.run)
            try:
                yield mdns
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _FAREWELL_S):
                    await mdns.announce(farewell=True)
