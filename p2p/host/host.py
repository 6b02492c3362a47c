"""The host: listens, dials, upgrades, and hands each stream to its handler, guarded."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import trio

from p2p.address import Address, CircuitAddress, TcpAddress, parse_address
from p2p.config import NodeConfig
from p2p.errors import StreamBroken
from p2p.host import identify
from p2p.host.access import Access
from p2p.host.allocator import keep_freed_memory
from p2p.host.budget import Budget, Share
from p2p.host.connection import Rules, upgrade
from p2p.host.crossing import loser_of, preferred, replaced_of
from p2p.host.gate import gate_of
from p2p.host.guests import Guests
from p2p.host.inbound import Inbound
from p2p.host.listen import dial_cause, listening_addresses, open_listeners, remote_address
from p2p.host.live import LiveConnection, retire
from p2p.host.muxed_stream import MuxedStream
from p2p.host.muxer import Muxer
from p2p.host.noise import is_aes_faster
from p2p.host.punch_table import Part
from p2p.host.punches import Punches
from p2p.host.records import BUFFERS_BYTES_MAX
from p2p.host.relayed import Relayed
from p2p.host.serve import serve_stream
from p2p.host.shares import Shares
from p2p.host.sockets import DialingSockets, local_address
from p2p.host.stream import Path, Stream, StreamHandler
from p2p.host.swarm_key import read_swarm_key
from p2p.host.transport import ConnectionInfo, DialError, Identified, OnIdentified
from p2p.identity import Identity
from p2p.metrics import CONNECTIONS
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.relay.schema import CircuitLimit

logger = logging.getLogger(__name__)

CONNECTIONS_PER_PEER_MAX = 8
"""Inbound ones; two peers that dial each other at once have two. The oldest gives way."""


@asynccontextmanager
async def open_host(identity: Identity, config: NodeConfig) -> AsyncIterator[Host]:
    """Listen and serve; leaving says farewell and closes every socket.

    Raises:
        ListenError: an address cannot be listened on.
        AccessError: the swarm key, token or deny list cannot be used.
    """
    keep_freed_memory()
    listeners = [] if config.client_mode else await open_listeners(config.listen)
    try:
        host = Host(identity, config, listeners)
        async with open_service_nursery() as nursery:
            host.start(nursery)
            try:
                yield host
            finally:
                with trio.CancelScope(shield=True):
                    await host.close()
    finally:
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()


class Host:
    """The real transport: TCP, Noise and yamux, wire-compatible with libp2p."""

    def __init__(
        self, identity: Identity, config: NodeConfig, listeners: list[trio.SocketListener]
    ) -> None:
        self._identity = identity
        self._listeners = listeners
        self._handlers: dict[str, StreamHandler] = {}
        self._connections: dict[PeerId, list[LiveConnection]] = {}
        self._gate = gate_of(config)
        self._guests = Guests(
            allowed=config.allow_peers,
            denied=config.deny_peers,
            others_may_ask=config.access is not None,
        )
        held_max = config.buffered_bytes_max
        self._shares = Shares(held_max)
        self._buffers = Budget(total_max=held_max, share_max=BUFFERS_BYTES_MAX)
        self._access = (
            Access(config.access, identity.peer_id, self._on_denied) if config.access else None
        )
        self._rules = Rules(
            wants_aes=config.record_layer == "auto" and is_aes_faster(),
            refusal=self._refusal,
            is_allowed=config.allow_peers.__contains__,
            swarm_key=read_swarm_key(config.swarm_key_path) if config.swarm_key_path else None,
            access=self._access,
        )
        announced: tuple[Address, ...] = tuple(parse_address(text) for text in config.announce)
        self._addresses = () if config.client_mode else announced or self.listening_on
        self._sockets = DialingSockets(listeners)
        self._punches = Punches(self._sockets, self._upgrade_punched, self._begin)
        self._inbound = Inbound(
            listeners,
            self._gate,
            self._guests,
            self._punches,
            upgrade=self._upgrade,
            begin=self._begin,
        )
        self.on_connected: list[Callable[[ConnectionInfo], None]] = []
        """Called with each new connection, before anything else goes over it; must not raise."""
        self.on_identified: list[OnIdentified] = []
        """Told what each new connection's peer says of itself; while empty, nobody is asked."""
        self._relayed = Relayed(self, identity.peer_id, self._upgrade, self._begin)
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to accept connections, with tasks in the nursery."""
        self._nursery = nursery
        self.set_handler(identify.PING_PROTOCOL, identify.serve_ping)
        told = identify.IdentifyServer(self._identity.public_key, self, self._handlers)
        self.set_handler(identify.IDENTIFY_PROTOCOL, told)
        nursery.start_soon(self._inbound.accept_all)

    async def close(self) -> None:
        """Accept nobody any more, and say farewell to all at once, bounded in time."""
        self._inbound.close()
        async with trio.open_nursery() as nursery:
            for connection in self._open_connections():
                nursery.start_soon(connection.muxer.say_farewell)

    # Transport

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._addresses

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        self._addresses = addresses

    @property
    def listening_on(self) -> tuple[TcpAddress, ...]:
        return listening_addresses(self._listeners)

    def identified(self, peer_id: PeerId) -> Identified | None:
        """What the peer said of itself on the newest connection that it answered on."""
        told = [one.identified for one in self._open_connections(peer_id) if one.identified]
        return told[-1] if told else None

    async def ask_who(self, peer_id: PeerId) -> Identified | None:
        known = self.identified(peer_id)
        for connection in self._open_connections(peer_id)[-1:] if known is None else ():
            await connection.ask_who([])
        return known or self.identified(peer_id)

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    def connections(self, peer_id: PeerId | None = None) -> tuple[ConnectionInfo, ...]:
        return tuple(
            connection.info
            for connection in self._open_connections(peer_id)
            if connection.muxer.usable
        )

    def remember(self, peer_id: PeerId, host: str) -> None:
        """We know this peer from before, and that it was at this host."""
        self._guests.on_reached(peer_id, host)

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        usable = [one for one in self._connections.get(peer_id, ()) if one.muxer.usable]
        if not usable:
            raise StreamBroken(f"no connection to {short(peer_id)}")
        connection = usable[preferred([one.info for one in usable], self._identity.peer_id)]
        return await connection.open_stream(protocol)

    @contextmanager
    def watched(self, peer_ids: Iterable[PeerId]) -> Iterator[None]:
        with ExitStack() as stack:
            for peer_id in peer_ids:
                for connection in self._open_connections(peer_id):
                    stack.enter_context(connection.muxer.watched())
            yield

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while connections := self._open_connections(peer_id):
            await connections[0].muxer.lost.wait()

    async def disconnect(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        async with trio.open_nursery() as nursery:
            for connection in self._open_connections(peer_id):
                nursery.start_soon(connection.muxer.aclose)

    async def dial(
        self, peer_id: PeerId, address: Address, *, from_listen_port: bool = True
    ) -> None:
        """Connect to the peer at one address; raises DialError (never for being connected).

        Args:
            from_listen_port: False for a port of its own, which is in the way of no punch.
        """
        if refusal := self._refusal(peer_id):
            raise DialError(refusal)
        if isinstance(address, CircuitAddress):
            await self._relayed.dial(peer_id, address)
            return
        try:
            opened = await self._sockets.open(address, from_listen_port=from_listen_port)
        except (OSError, ValueError) as exc:
            # ValueError: what a stranger announced as a host name need not be one.
            raise DialError(dial_cause(exc)) from exc
        remote = remote_address(opened.stream)
        # Whoever was found by name is where the socket says.
        there = remote if remote and address.kind.startswith("dns") else address
        self._begin(
            await self._upgrade(
                opened.stream,
                there.of(peer_id),
                peer_id,
                # The peer's own socket may meet this one of ours, which was under way before.
                "punched" if remote and self._punches.expected_from(remote) else "direct",
                from_listen_port=opened.from_listen_port,
            )
        )
        if remote is not None:
            self.remember(peer_id, remote.host)

    def expect_punch(self, peer_id: PeerId, addresses: Iterable[TcpAddress], part: Part) -> None:
        """For 10 s, connections from these addresses are of a peer that dials while we dial it.

        Args:
            part: ours in the handshakes, whoever connects.
        """
        self._punches.expect(peer_id, addresses, part)

    async def punch(
        self, peer_id: PeerId, addresses: tuple[TcpAddress, ...], *, window_s: float
    ) -> None:
        """Dial a peer that is expected, from our listening port, until it or we get through.

        Raises:
            DialError: nobody did; the text names the cause for each address.
        """
        await self._punches.open(peer_id, addresses, window_s=window_s)

    async def accept_relayed(self, stream: Stream, source: PeerId, limit: CircuitLimit) -> None:
        """Serve a peer that comes through a relay's stream; returns when it has gone.

        Raises:
            DialError: the peer is not the one that the relay named, or no libp2p peer.
        """
        await self._relayed.accept(stream, source, limit)

    # Connections

    def _open_connections(self, peer_id: PeerId | None = None) -> list[LiveConnection]:
        """Those that are not lost, of one peer or of all."""
        several = (
            self._connections.values() if peer_id is None else (self._connections.get(peer_id, []),)
        )
        return [one for some in several for one in some if not one.muxer.lost.is_set()]

    async def _upgrade(
        self,
        stream: trio.abc.HalfCloseableStream,
        address: TcpAddress | str,
        expected: PeerId | None,
        path: Path = "direct",
        limit: CircuitLimit | None = None,
        *,
        from_listen_port: bool = False,
    ) -> LiveConnection:
        """Turn a byte stream into a connection; whatever fails, the stream is closed."""
        held = self._buffers.open_share()
        local = local_address(stream)
        try:
            noise = await upgrade(stream, self._identity, expected, rules=self._rules, held=held)
        except BaseException:
            held.close()
            await trio.aclose_forcefully(stream)
            raise
        info = ConnectionInfo(
            peer_id=noise.peer_id,
            address=str(address),
            path=path,
            outbound=noise.is_dialer,
            opened_at_s=trio.current_time(),
            record_layer=noise.layer.protocol,
            limit=limit,
            local=local,
            from_listen_port=from_listen_port,
        )
        shares = self._shares.of(noise.peer_id)
        muxer = Muxer(
            noise,
            dialer=noise.is_dialer,
            on_stream=lambda muxed: self._on_stream(muxed, info, shares.served),
            unread=shares.unread.open_part(),
            unsent=shares.unsent.open_part(),
            promised=shares.promised.open_part(),
        )
        return LiveConnection(info, noise, muxer, trio.current_time() + noise.may_stay_s)

    async def _upgrade_punched(
        self, stream: trio.SocketStream, remote: TcpAddress, expected: PeerId | None
    ) -> LiveConnection:
        return await self._upgrade(stream, remote, expected, "punched", None, from_listen_port=True)

    def _refusal(self, peer_id: PeerId) -> str | None:
        """Why a peer that has proved its identity may not stay, or None."""
        if peer_id == self._identity.peer_id:
            return "that is ourselves"
        if self._access is not None and self._access.is_denied(peer_id):
            return "the authority has taken the peer's access back"
        return self._guests.refusal(peer_id)

    def _on_denied(self, peer_id: PeerId) -> None:
        """A newer deny list names the peer."""
        for connection in self._open_connections(peer_id):
            connection.muxer.abort("the authority has taken the peer's access back")

    def _begin(self, connection: LiveConnection, counted_host: str | None = None) -> None:
        """Register the connection and let it run; an inbound one has been counted by the gate."""
        info = connection.info
        several = self._connections.setdefault(info.peer_id, [])
        several.append(connection)
        inbound = [one for one in several if not one.info.outbound]
        for oldest in inbound[:-CONNECTIONS_PER_PEER_MAX]:
            oldest.muxer.abort("too many connections of this peer")
        self._nursery.start_soon(self._run, connection, counted_host)
        if self.on_identified:
            self._nursery.start_soon(connection.ask_who, self.on_identified)
        if info.path != "relayed":
            self._punches.on_unrelayed(info.peer_id)
        for older in several[:-1]:
            loser = loser_of(older.info, info, self._identity.peer_id)
            loser = loser or replaced_of(older.info, info)
            if loser is not None:
                pair = (older, connection) if loser is older.info else (connection, older)
                self._nursery.start_soon(retire, *pair)
        for callback in self.on_connected:
            callback(info)

    async def _run(self, connection: LiveConnection, counted_host: str | None) -> None:
        info = connection.info
        peer = short(info.peer_id)
        logger.info("connected peer=%s address=%s outbound=%s", peer, info.address, info.outbound)
        open_now = CONNECTIONS.labels("outbound" if info.outbound else "inbound")
        open_now.inc()
        try:
            with trio.move_on_at(connection.ends_at_s) as access:
                await connection.muxer.run()
            if access.cancelled_caught:
                connection.muxer.cause = "the peer's token has ended"
        except Exception:
            # A stranger's bytes must not take the node down; the operator gets the traceback.
            logger.exception("connection_crashed peer=%s", peer)
        finally:
            open_now.dec()
            if counted_host is not None:
                self._gate.on_disconnected(counted_host)
            several = self._connections[info.peer_id]
            several.remove(connection)
            if not several:
                del self._connections[info.peer_id]
            logger.debug("disconnected peer=%s cause=%r", peer, connection.muxer.cause)

    # Streams

    def _on_stream(self, muxed: MuxedStream, info: ConnectionInfo, served: Share) -> None:
        """A peer has opened a stream; handlers that outlive their streams count, too."""
        if served.room:
            served.take(1)
            self._nursery.start_soon(self._serve_stream, muxed, info, served)
        else:
            muxed.reset()

    async def _serve_stream(self, muxed: MuxedStream, info: ConnectionInfo, served: Share) -> None:
        try:
            await serve_stream(muxed, info, self._handlers)
        finally:
            served.give(1)
