"""Node: what users of the network hold; open_node() starts it, leaving the block ends it."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from p2p import peerstore_file
from p2p.address import Address, TcpAddress, is_circuit, parse_address
from p2p.clock import wall_time_s
from p2p.config import NodeConfig
from p2p.dial import Dialer
from p2p.discovery.networks import Interface
from p2p.errors import AddressInvalid, Attempt, StreamBroken, UnreachableError
from p2p.host.stream import Stream, StreamHandler
from p2p.host.transport import ConnectionInfo, Identified, Transport
from p2p.identity import Identity
from p2p.nat import NetReport, Reachability
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId
from p2p.peerstore import Peerstore, is_dialable
from p2p.relay.bulk import RelayedBulk

if TYPE_CHECKING:
    from p2p.dial.hole_puncher import HolePuncher
    from p2p.relay.client import RelayClient
    from p2p.relay.keeper import RelayKeeper
    from p2p.relay.server import RelayServer

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SAVE_S = 60.0


class Offload(Protocol):
    """Runs heavy synchronous work off the trio loop; never abandoned by a cancellation."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The function's result."""


class KnowsWhereabouts(Protocol):
    """What a node asks of whoever finds out how others reach it."""

    on_reachability: list[Callable[[Reachability], None]]
    """Called when outsiders begin or cease to get through to us, as far as we know."""

    @property
    def reachability(self) -> Reachability:
        """Whether outsiders get through to us at any address."""

    def report_on(self, plain: NetReport) -> NetReport:
        """A report on addresses and connections, with what is known of the way to us."""


class Node:
    """A peer's presence in the network: its identity, its connections, its streams."""

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        nursery: trio.Nursery,
        *,
        offload: Offload,
        rng: random.Random,
        client_mode: bool = False,
        dial_timeout_s: float = 10.0,
        clock_skew_s: float = 0.0,
        peerstore: Peerstore | None = None,
        interfaces: Callable[[], tuple[Interface, ...]] | None = None,
        listening: Callable[[], tuple[TcpAddress, ...]] = tuple,
    ) -> None:
        self.identity = identity
        self.peer_id = identity.peer_id
        self.client_mode = client_mode
        self.rng = rng
        self.offload = offload
        self.listening = listening
        """Where this machine's own interfaces can be dialed now, whatever is announced."""
        self.relay_client: RelayClient | None = None
        """Reserves at relays, so that others reach us through them; None in simulations."""
        self.relay_keeper: RelayKeeper | None = None
        """Holds reservations at relays, if this node may need any."""
        self.relay_server: RelayServer | None = None
        """The relay that this node serves as, if it does."""
        self.hole_puncher: HolePuncher | None = None
        """Punches to peers that are reached through relays, if this node does so at all."""
        self.whereabouts: KnowsWhereabouts | None = None
        """What is known of our own addresses; None where nobody finds out."""
        self.relayed_bulk = RelayedBulk(transport.connections)
        """How much bulk may still go over each relayed connection."""
        self._transport = transport
        self._clock_skew_s = clock_skew_s
        self._peerstore = peerstore or Peerstore()
        self._dialer = Dialer(
            transport,
            nursery,
            is_connected=self.is_connected,
            on_reached=self._on_reached,
            dial_timeout_s=dial_timeout_s,
            rng=rng,
            interfaces=interfaces,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us, each with our peer id; empty in client mode."""
        return tuple(str(address.of(self.peer_id)) for address in self._transport.addresses)

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The open connections."""
        return self._transport.connections()

    @property
    def connected_peers(self) -> tuple[PeerId, ...]:
        """The peers we have a connection to."""
        return tuple(dict.fromkeys(info.peer_id for info in self.connections))

    @property
    def net_report(self) -> NetReport:
        """How others can reach us, as far as we know."""
        paths = [info.path for info in self.connections]
        plain = NetReport(
            addresses=self.addresses,
            client_mode=self.client_mode,
            connections_direct=paths.count("direct"),
            connections_punched=paths.count("punched"),
            connections_relayed=paths.count("relayed"),
        )
        return plain if self.whereabouts is None else self.whereabouts.report_on(plain)

    @property
    def reachability(self) -> Reachability:
        """Whether outsiders get through to us without a relay, as far as we know."""
        if self.client_mode:
            return "private"
        return "unknown" if self.whereabouts is None else self.whereabouts.reachability

    @property
    def is_open(self) -> bool:
        """Whether to expect that anybody can dial us without a relay.

        While nobody has tried, it is so as long as we hold no place at a relay.
        """
        addresses = self.addresses
        circuits = sum(is_circuit(address) for address in addresses)
        if self.reachability == "unknown":
            return bool(addresses) and not circuits
        return self.reachability == "public" and len(addresses) > circuits

    def path_to(self, peer_id: PeerId) -> ConnectionInfo | None:
        """The connection that takes new streams to a peer, or None without one."""
        infos = [info for info in self.connections if info.peer_id == peer_id]
        unrelayed = [info for info in infos if info.path != "relayed"]
        best = unrelayed or infos
        return best[-1] if best else None

    def wall_time_s(self) -> float:
        """Seconds since 1970, as this node believes."""
        return wall_time_s() + self._clock_skew_s

    def is_connected(self, peer_id: PeerId) -> bool:
        """Whether a connection to the peer is open."""
        return bool(self._transport.connections(peer_id))

    def connections_to(self, peer_id: PeerId) -> tuple[ConnectionInfo, ...]:
        """The open connections to one peer; the cost does not grow with those to others."""
        return self._transport.connections(peer_id)

    def _on_reached(self, peer_id: PeerId, address: Address) -> None:
        self._peerstore.on_reached(peer_id, address)
        self._peerstore.touch(peer_id, self.wall_time_s())

    def on_punched(self, peer_id: PeerId, address: TcpAddress) -> None:
        """A hole was punched to the peer at this address: it is tried at once when it is lost."""
        self._dialer.back_off.forgive((address.of(peer_id),))
        self._on_reached(peer_id, address)

    def on_network_changed(self) -> None:
        """Our own addresses have changed: what could not be dialed before is tried again."""
        self._dialer.back_off.forgive_all()

    def add_addresses(self, peer_id: PeerId, addresses: Iterable[str]) -> None:
        """Remember where a peer may be dialed; texts that are no address are left out."""
        if peer_id != self.peer_id:
            self._peerstore.add_untrusted(peer_id, addresses)

    def addresses_of(self, peer_id: PeerId) -> tuple[str, ...]:
        """Where a peer may be dialed, as far as we know."""
        return tuple(str(address) for address in self._peerstore.addresses_of(peer_id))

    async def connect(self, peer_id: PeerId, addresses: Iterable[str] = ()) -> None:
        """Make sure of a connection, racing the given and all known addresses.

        Raises:
            UnreachableError: no address led to the peer; each is listed with its cause.
        """
        if peer_id == self.peer_id:
            # Not our caller's fault: peers hand our own address around, too.
            raise UnreachableError(peer_id, (Attempt("any", "that is ourselves"),))
        addresses = tuple(addresses)
        self.add_addresses(peer_id, addresses)
        if not self.is_connected(peer_id):
            # Whoever names an address has a reason to believe in it.
            known = self._peerstore.addresses_of(peer_id)
            self._dialer.back_off.forgive(one for one in known if str(one) in addresses)
            await self._dialer.connect(peer_id, self._peerstore.addresses_of(peer_id))

    async def connect_address(self, address: str) -> PeerId:
        """Connect to a full multiaddress, as operators pass around; returns the peer there.

        Raises:
            AddressInvalid: it is no multiaddress, or lacks the peer id.
            UnreachableError: nobody there, or somebody else.
        """
        parsed = parse_address(address)
        if parsed.peer_id is None:
            raise AddressInvalid(f"{address!r} lacks the peer id; append /p2p/12D3KooW…")
        if not is_dialable(parsed):
            raise AddressInvalid(
                f"{address!r} is only good for listening; write the host and port to dial"
            )
        await self.connect(parsed.peer_id, (address,))
        return parsed.peer_id

    async def ask_who(self, peer_id: PeerId) -> Identified | None:
        """What a connected peer says of itself, unproven: its program, protocols and addresses.

        It is asked unless it has answered before; None if it does not, or is not connected.
        """
        return await self._transport.ask_who(peer_id)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer."""
        await self._transport.disconnect(peer_id)

    def watched(self, peer_ids: Iterable[PeerId]) -> AbstractContextManager[None]:
        """While the block lasts, the loss of these peers is noticed in 5 to 6 s, not 15 to 20.

        It holds for the connections open when the block is entered; each costs a ping a second.
        """
        return self._transport.watched(peer_ids)

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        """Return when no connection to the peer is open; at once when there is none."""
        await self._transport.wait_disconnected(peer_id)

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """A stream to the peer, connecting when needed; no round trip when connected.

        Raises:
            UnreachableError: no path to the peer worked.
        """
        try:
            return await self._transport.open_stream(peer_id, protocol)
        except StreamBroken:
            # Not connected, or no more: one new connection is worth a try.
            await self.connect(peer_id)
        try:
            return await self._transport.open_stream(peer_id, protocol)
        except StreamBroken as exc:
            lost = Attempt("any", "connected, and lost again at once")
            raise UnreachableError(peer_id, (lost,)) from exc

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Serve a protocol; an exception in the handler resets its stream and nothing else."""
        self._transport.set_handler(protocol, handler)

    def stop_serving(self, protocol: str) -> None:
        """Serve it no more; streams already open go on."""
        self._transport.set_handler(protocol, None)


async def offload_to_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a function in a worker thread; a cancellation waits for it."""
    return await trio.to_thread.run_sync(function, *args, limiter=_offload_limiter())


_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("_offload_limiter")
# Heavy pieces gain nothing from more threads than cores; four serve any volunteer's machine.
_OFFLOAD_THREADS = 4


def _offload_limiter() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_OFFLOAD_THREADS)
        _limiter.set(limiter)
        return limiter


@asynccontextmanager
async def open_node(config: NodeConfig | None = None) -> AsyncIterator[Node]:
    """Start a node: entered means that it listens and serves; left means that all is closed.

    Raises:
        IdentityError: the key file cannot be used.
        ListenError: an address cannot be listened on, such as a port in use.
        AddressInvalid: an address in the config is none.
    """
    # Imported here because only real nodes need py-libp2p; simulations stay light.
    from p2p.discovery.interfaces import interfaces
    from p2p.discovery.mdns import open_mdns
    from p2p.host.host import open_host
    from p2p.probe.service import open_probe
    from p2p.reach import open_reach
    from p2p.relay.client import open_relay_client
    from p2p.relay.server import open_relay_server

    config = config or NodeConfig()
    identity = (
        Identity.load_or_create(config.identity_path)
        if config.identity_path
        else Identity.generate()
    )
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host(identity, config))
        nursery = await stack.enter_async_context(open_service_nursery())
        peerstore = Peerstore()
        if config.peerstore_path is not None:
            peerstore = await stack.enter_async_context(
                _kept_on_disk(config.peerstore_path, nursery)
            )
            # Whom we reached before the last stop still has a place that strangers leave free.
            for peer_id, address in peerstore.proven():
                if isinstance(address, TcpAddress):
                    host.remember(peer_id, address.host)
        node = Node(
            identity,
            host,
            nursery,
            offload=offload_to_thread,
            rng=random.Random(),
            client_mode=config.client_mode,
            dial_timeout_s=config.dial_timeout_s,
            peerstore=peerstore,
            interfaces=interfaces,
            listening=lambda: host.listening_on,
        )
        node.relay_client = await stack.enter_async_context(
            open_relay_client(host, identity.peer_id)
        )
        if config.relay:
            node.relay_server = await stack.enter_async_context(
                open_relay_server(host, identity, config.relay_limits)
            )
        await stack.enter_async_context(open_reach(node, host, config))
        await stack.enter_async_context(open_probe(node, config.bandwidth_limits))
        if config.mdns:
            await stack.enter_async_context(open_mdns(node))
        yield node


@asynccontextmanager
async def _kept_on_disk(path: Path, nursery: trio.Nursery) -> AsyncIterator[Peerstore]:
    """A peerstore with what the file says, written now and then, and once more at the end.

    To check and to format thousands of addresses takes long, so it is done off the loop.
    """
    store = await offload_to_thread(_load, path)

    async def save() -> None:
        try:
            await offload_to_thread(_save, path, store.copy())
        except OSError as exc:
            # To know fewer peers after the next start is no reason to stop now.
            logger.warning("peerstore_not_saved file=%s cause=%s", path, exc)

    async def save_often() -> None:
        while True:
            await trio.sleep(_SAVE_S)
            await save()

    nursery.start_soon(save_often)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await save()


def _load(path: Path) -> Peerstore:
    store = Peerstore()
    store.restore_untrusted(peerstore_file.load(path))
    return store


def _save(path: Path, store: Peerstore) -> None:
    peerstore_file.save(path, store.saved())
