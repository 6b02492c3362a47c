"""The host: listens, dials, upgrades, and hands each stream to its handler, guarded."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
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
from p2p.host.crossing import loser_of, preferred
from p2p.host.gate import Gate
from p2p.host.guests import Guests
from p2p.host.listen import (
    dial_cause,
    listening_addresses,
    local_address,
    open_listeners,
    remote_address,
)
from p2p.host.live import LiveConnection, retire
from p2p.host.muxed_stream import MuxedStream
from p2p.host.muxer import Muxer
from p2p.host.noise import is_aes_faster
from p2p.host.records import BUFFERS_BYTES_MAX
from p2p.host.relayed import Relayed
from p2p.host.serve import serve_stream
from p2p.host.shares import Shares
from p2p.host.stream import Path, Stream, StreamHandler
from p2p.host.swarm_key import read_swarm_key
from p2p.host.transport import ConnectionInfo, DialError, Identified, OnIdentified
from p2p.identity import Identity
from p2p.metrics import CONNECTIONS, HANDSHAKES_REFUSED
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.relay.schema import CircuitLimit

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
CONNECTIONS_PER_PEER_MAX = 8
"""Inbound ones; two peers that dial each other at once have two. The oldest gives way."""
_ACCEPT_PAUSE_S = 0.1


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
        self._gate = Gate(
            connections_max=config.inbound_connections_max,
            connections_per_host_max=config.inbound_connections_per_host_max,
            handshakes_max=config.handshakes_max,
            handshakes_per_host_max=config.handshakes_per_host_max,
            connections_per_range_max=config.inbound_connections_per_range_max,
            handshakes_per_s=config.handshakes_per_s_max,
            handshakes_per_s_and_host=config.handshakes_per_s_and_host_max,
        )
        self._guests = Guests(
            allowed=config.allow_peers,
            denied=config.deny_peers,
            others_may_ask=config.access is not None,
        )
        self._handshakes: dict[int, trio.CancelScope] = {}
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
        announced = tuple(parse_address(text) for text in config.announce)
        self._addresses: tuple[Address, ...] = announced or self.listening()
        if config.client_mode:
            self._addresses = ()
        self._relayed = Relayed(self, identity.peer_id, self._upgrade, self._begin)
        self.on_identified: list[OnIdentified] = []
        """Told what each new connection's peer says of itself; while empty, nobody is asked."""
        self._accepting = trio.CancelScope()
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to accept connections, with tasks in the nursery."""
        self._nursery = nursery
        self.set_handler(identify.PING_PROTOCOL, identify.serve_ping)
        told = identify.IdentifyServer(self._identity.public_key, self, self._handlers)
        self.set_handler(identify.IDENTIFY_PROTOCOL, told)
        nursery.start_soon(self._accept_all)

    async def close(self) -> None:
        """Accept nobody any more, and say farewell to all at once, bounded in time."""
        self._accepting.cancel()
        async with trio.open_nursery() as nursery:
            for connection in self._open_connections():
                nursery.start_soon(connection.muxer.say_farewell)

    # Transport

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._addresses

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        self._addresses = addresses

    def listening(self) -> tuple[TcpAddress, ...]:
        """Where our interfaces can be dialed now; they come and go."""
        return listening_addresses(self._listeners)

    def identified(self, peer_id: PeerId) -> Identified | None:
        """What the peer said of itself on the newest connection that it answered on."""
        told = [one.identified for one in self._open_connections(peer_id) if one.identified]
        return told[-1] if told else None

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return tuple(
            connection.info for connection in self._open_connections() if connection.muxer.usable
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

    async def dial(self, peer_id: PeerId, address: Address) -> None:
        if refusal := self._refusal(peer_id):
            raise DialError(refusal)
        if isinstance(address, CircuitAddress):
            await self._relayed.dial(peer_id, address)
            return
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, ValueError) as exc:
            # ValueError: what a stranger announced as a host name need not be one.
            raise DialError(dial_cause(exc)) from exc
        remote = remote_address(stream)
        self._begin(await self._upgrade(stream, address.of(peer_id), peer_id))
        if remote is not None:
            self.remember(peer_id, remote.host)

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

    async def _accept_all(self) -> None:
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        failing = False
        while True:
            try:
                stream = await listener.accept()
                failing = False
            except OSError as exc:
                # Out of descriptors or memory, a peer gone again, a network down: all of it passes.
                if not failing:
                    logger.warning("accept_failed %s", exc)
                failing = True
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            remote = remote_address(stream)
            admission = remote and self._gate.on_accepted(
                remote.host, trio.current_time(), known=self._guests.knows_host(remote.host)
            )
            if not remote or not admission:
                HANDSHAKES_REFUSED.inc()
                await trio.aclose_forcefully(stream)
                continue
            if admission.displaced is not None:
                self._handshakes[admission.displaced].cancel()
            scope = self._handshakes[admission.place] = trio.CancelScope()
            nursery.start_soon(self._serve_inbound, stream, remote, admission.place, scope)

    async def _serve_inbound(
        self,
        stream: trio.SocketStream,
        remote: TcpAddress,
        place: int,
        scope: trio.CancelScope,
    ) -> None:
        scope.deadline = trio.current_time() + HANDSHAKE_TIMEOUT_S
        try:
            with scope:
                connection = await self._upgrade(stream, remote, None)
                known = self._guests.knows_peer(connection.info.peer_id)
                if known:
                    # It may have moved; next time it is known before its handshake.
                    self.remember(connection.info.peer_id, remote.host)
                if self._gate.on_proved(remote.host, known=known):
                    self._begin(connection, counted_host=remote.host)
                else:
                    await connection.session.aclose()
        except DialError as exc:
            logger.debug("handshake_failed address=%s %s", remote, exc)
        except Exception:
            # A stranger's bytes must not take the node down; the operator gets the traceback.
            logger.exception("handshake_crashed address=%s", remote)
        finally:
            del self._handshakes[place]
            self._gate.on_handshake_over(place)

    async def _upgrade(
        self,
        stream: trio.abc.HalfCloseableStream,
        address: TcpAddress | str,
        expected: PeerId | None,
        path: Path = "direct",
        limit: CircuitLimit | None = None,
    ) -> LiveConnection:
        """Turn a byte stream into a connection; whatever fails, the stream is closed."""
        held = self._buffers.open_share()
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
            outbound=expected is not None,
            opened_at_s=trio.current_time(),
            record_layer=noise.layer.protocol,
            local=local_address(stream),
            limit=limit,
        )
        shares = self._shares.of(noise.peer_id)
        muxer = Muxer(
            noise,
            dialer=expected is not None,
            on_stream=lambda muxed: self._on_stream(muxed, info, shares.served),
            unread=shares.unread.open_part(),
            unsent=shares.unsent.open_part(),
            promised=shares.promised.open_part(),
        )
        return LiveConnection(info, noise, muxer, trio.current_time() + noise.may_stay_s)

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
        for older in several[:-1]:
            loser = loser_of(older.info, info, self._identity.peer_id)
            if loser is not None:
                pair = (older, connection) if loser is older.info else (connection, older)
                self._nursery.start_soon(retire, *pair)

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
