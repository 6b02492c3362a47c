"""The relay keeper: holds reservations at several relays, and makes new ones when they go."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from p2p.address import (
    ANNOUNCED_TEXT_MAX,
    CircuitAddress,
    TcpAddress,
    parse_tcp_address,
    scope,
    sort_addresses,
)
from p2p.binary_address import tcp_address_of_untrusted
from p2p.errors import AddressInvalid, MessageInvalid, P2PError, RefusedError
from p2p.host.transport import ConnectionInfo, Identified, OnIdentified, Transport
from p2p.nat.report import RelayReport
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.peerstore import is_dialable
from p2p.relay.choice import Candidate, RelayChoice
from p2p.relay.client import RelayClient
from p2p.relay.schema import HOP_PROTOCOL, Reservation

logger = logging.getLogger(__name__)

_ATTEMPT_S_MAX = 15.0
"""How long connecting, a ping or a reservation may take."""
_PING_BYTES = bytes(32)
_PINGS = 2
_ADDRESSES_PER_PEER_MAX = 8


class IdentifyingTransport(Transport, Protocol):
    """A transport that tells what the peer of each connection says of itself."""

    on_identified: list[OnIdentified]

    def identified(self, peer_id: PeerId) -> Identified | None:
        """What the peer said of itself on the newest connection that it answered on."""


@asynccontextmanager
async def open_relay_keeper(
    node: Node,
    host: IdentifyingTransport,
    client: RelayClient,
    *,
    on_change: Callable[[tuple[RelayReport, ...]], None],
    relays: Iterable[str] = (),
    wanted: int = 2,
) -> AsyncIterator[RelayKeeper]:
    """Keep reservations at relays until the block ends.

    Args:
        on_change: told of every reservation that is made, refreshed or lost; the nearest relay
            comes first.
        relays: addresses of relays to prefer, with their peer ids.
        wanted: how many to hold; want() changes it.

    Raises:
        AddressInvalid: one of the relays' addresses is none, or lacks the peer id.
    """
    named = [_named_relay(text) for text in relays]
    async with open_service_nursery() as nursery:
        keeper = RelayKeeper(node, host, client, nursery, on_change, wanted)
        for address in named:
            keeper.on_named(address)
        for info in host.connections():
            identified = host.identified(info.peer_id)
            if identified is not None:
                keeper.on_identified(info, identified)
        host.on_identified.append(keeper.on_identified)
        nursery.start_soon(keeper.keep)
        nursery.start_soon(keeper.tell_changes)
        try:
            yield keeper
        finally:
            host.on_identified.remove(keeper.on_identified)


class RelayKeeper:
    """Runs the choice of relays over the network."""

    def __init__(
        self,
        node: Node,
        host: Transport,
        client: RelayClient,
        nursery: trio.Nursery,
        on_change: Callable[[tuple[RelayReport, ...]], None],
        wanted: int,
    ) -> None:
        self._node = node
        self._host = host
        self._client = client
        self._nursery = nursery
        self._on_change = on_change
        self._choice = RelayChoice(node.rng, wanted=wanted)
        self._news = trio.Event()

    @property
    def is_short(self) -> bool:
        """Whether fewer reservations are held than wanted, or all in one network."""
        return self._choice.is_short

    def reports(self) -> tuple[RelayReport, ...]:
        """The reservations held now, the nearest first."""
        told = []
        for one in self._choice.held:
            reservation = self._client.held(one.peer_id)
            if reservation is None:
                continue
            address = self._circuit(one, reservation)
            if address is None:
                continue
            told.append(
                RelayReport(
                    peer_id=one.peer_id,
                    address=str(address.of(self._node.peer_id)),
                    expires_in_s=self._client.expires_at_s(one.peer_id) - trio.current_time(),
                    round_trip_s=one.round_trip_s,
                )
            )
        return tuple(told)

    def want(self, count: int) -> None:
        """Hold so many from now on; those held beyond it are refreshed no more."""
        self._choice.wanted = count
        for one in self._choice.held[count:]:
            self._client.give_up(one.peer_id)
        self._wake()

    def add_candidates(self, found: Mapping[PeerId, Iterable[str]]) -> None:
        """Peers of which somebody says that they are relays, with their addresses."""
        for peer_id, texts in found.items():
            addresses = _dialable_untrusted(peer_id, texts)
            if addresses and peer_id != self._node.peer_id:
                self._node.add_addresses(peer_id, map(str, addresses))
                self._choice.on_candidate(peer_id, addresses[0])
        self._wake()

    def on_named(self, address: TcpAddress) -> None:
        """The operator names a relay."""
        assert address.peer_id is not None
        if address.peer_id != self._node.peer_id:
            self._node.add_addresses(address.peer_id, (str(address),))
            self._choice.on_candidate(address.peer_id, address, named=True)
        self._wake()

    def on_identified(self, info: ConnectionInfo, identified: Identified) -> None:
        """A peer that we are connected to says what it serves."""
        if HOP_PROTOCOL not in identified.protocols or info.path == "relayed":
            return
        # Who came to us may not be open to others: only where it says that it listens counts.
        dialed = [parse_tcp_address(info.address)] if info.outbound else []
        listening = [
            one
            for one in identified.listening
            if isinstance(one, TcpAddress) and is_dialable(one) and scope(one) == "public"
        ]
        addresses = (dialed + listening)[:1]
        if addresses:
            self._choice.on_candidate(info.peer_id, addresses[0].of(info.peer_id))
            self._choice.on_connected(info.peer_id, trio.current_time())
            self._wake()

    def on_network_changed(self) -> None:
        """Our own network is another one."""
        self._choice.on_network_changed()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def keep(self) -> None:
        """Probe and try candidates whenever there is need."""
        while True:
            news = self._news
            now_s = trio.current_time()
            while (probed := self._choice.next_probe(now_s)) is not None:
                self._nursery.start_soon(self._probe, probed)
            while (tried := self._choice.next_try(now_s)) is not None:
                self._nursery.start_soon(self._hold, tried)
            wake_at_s = self._choice.wake_at_s(now_s)
            with trio.move_on_at(float("inf") if wake_at_s is None else wake_at_s):
                await news.wait()

    async def tell_changes(self) -> None:
        """Pass on what changes of the reservations, refreshed ones included."""
        while True:
            changed = self._client.changed
            await changed.wait()
            # The tasks that hold them learn of it in the same moment.
            await trio.lowlevel.checkpoint()
            self._on_change(self.reports())

    async def _probe(self, one: Candidate) -> None:
        try:
            with trio.fail_after(_ATTEMPT_S_MAX):
                await self._node.connect(one.peer_id, (str(one.address.of(one.peer_id)),))
                round_trip_s = await self._ping(one.peer_id)
        except (P2PError, trio.TooSlowError) as exc:
            logger.debug("relay_unreachable relay=%s %r", short(one.peer_id), exc)
            self._choice.on_failed(one.peer_id, trio.current_time())
        else:
            self._choice.on_round_trip(one.peer_id, round_trip_s)
        self._wake()

    async def _ping(self, peer_id: PeerId) -> float:
        """The shortest of a few round trips; the first holds the agreement on the protocol."""
        # Imported here because it loads py-libp2p, which simulations do without.
        from p2p.host.identify import PING_PROTOCOL

        stream = await self._node.open_stream(peer_id, PING_PROTOCOL)
        times_s = []
        try:
            for _ in range(_PINGS):
                began_at_s = trio.current_time()
                await stream.send_all(_PING_BYTES)
                await stream.receive_exactly(len(_PING_BYTES))
                times_s.append(trio.current_time() - began_at_s)
        finally:
            stream.reset()
        return min(times_s)

    async def _hold(self, one: Candidate) -> None:
        """Reserve at a relay; lasts as long as the reservation."""
        peer_id = one.peer_id
        try:
            with trio.fail_after(_ATTEMPT_S_MAX):
                await self._node.connect(peer_id, (str(one.address.of(peer_id)),))
                await self._client.reserve(peer_id)
        except RefusedError as exc:
            logger.debug("relay_refused_us relay=%s %s", short(peer_id), exc)
            self._choice.on_refused(peer_id, trio.current_time())
        except (P2PError, trio.TooSlowError, ValueError) as exc:
            logger.debug("relay_failed relay=%s %r", short(peer_id), exc)
            self._choice.on_failed(peer_id, trio.current_time())
        else:
            self._choice.on_held(peer_id)
            self._on_change(self.reports())
            self._wake()
            while self._client.held(peer_id) is not None:
                await self._client.changed.wait()
            self._choice.on_lost(peer_id, trio.current_time())
            self._on_change(self.reports())
        self._wake()

    def _circuit(self, one: Candidate, reservation: Reservation) -> CircuitAddress | None:
        """How others reach us through this relay: where we dial it if that is public, else where
        it says that it is, if that is."""
        own = one.address.of(one.peer_id)
        told = []
        for data in reservation.addresses:
            try:
                address = tcp_address_of_untrusted(data)
            except MessageInvalid:
                continue
            if address.peer_id in (None, one.peer_id) and is_dialable(address):
                told.append(address.of(one.peer_id))
        public = [address for address in (own, *told) if scope(address) == "public"]
        circuit = CircuitAddress((public or [own])[0])
        text = str(circuit.of(self._node.peer_id))
        return circuit if len(text) <= ANNOUNCED_TEXT_MAX else None


def _named_relay(text: str) -> TcpAddress:
    address = parse_tcp_address(text)
    if address.peer_id is None:
        raise AddressInvalid(f"{text!r} lacks the peer id of the relay; append /p2p/12D3KooW…")
    return address


def _dialable_untrusted(peer_id: PeerId, texts: Iterable[str]) -> tuple[TcpAddress, ...]:
    """The addresses of a relay that can be dialed, public ones first."""
    addresses: list[TcpAddress] = []
    for text in texts:
        try:
            address = parse_tcp_address(text)
        except AddressInvalid:
            continue
        if address.peer_id in (None, peer_id) and is_dialable(address):
            addresses.append(address.of(peer_id))
        if len(addresses) == _ADDRESSES_PER_PEER_MAX:
            break
    return sort_addresses(tuple(addresses))
