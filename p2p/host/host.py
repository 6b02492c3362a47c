"""The host: listens, dials, upgrades, and hands each stream to its handler, guarded."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2p.address import TcpAddress, parse_address
from p2p.config import NodeConfig
from p2p.errors import StreamBroken
from p2p.host import identify, multistream
from p2p.host.budget import Budget, Share
from p2p.host.connection import upgrade
from p2p.host.gate import Gate
from p2p.host.listen import dial_cause, listening_addresses, open_listeners, remote_address
from p2p.host.muxed_stream import MuxedStream
from p2p.host.muxer import Muxer
from p2p.host.negotiated import NegotiatedStream
from p2p.host.serve import serve_stream
from p2p.host.stream import Path, Stream, StreamHandler
from p2p.host.transport import ConnectionInfo, DialError
from p2p.host.yamux import INBOUND_STREAMS_MAX, UNREAD_BYTES_MAX, UNSENT_BYTES_MAX
from p2p.identity import Identity
from p2p.metrics import CONNECTIONS, HANDSHAKES_REFUSED
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
CONNECTIONS_PER_PEER_MAX = 8
"""Inbound ones; two peers that dial each other at once have two. The oldest gives way."""
STREAMS_SERVED_MAX = 4_096
"""Handlers at once, over all connections."""
_ACCEPT_PAUSE_S = 0.1


@dataclass(eq=False)
class _Connection:
    """An upgraded connection and what is known of it."""

    info: ConnectionInfo
    muxer: Muxer


@asynccontextmanager
async def open_host(identity: Identity, config: NodeConfig) -> AsyncIterator[Host]:
    """Listen and serve; leaving says farewell and closes every socket.

    Raises:
        ListenError: an address cannot be listened on.
    """
    listeners = [] if config.client_mode else await open_listeners(config.listen)
    host = Host(identity, config, listeners)
    try:
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
        self._connections: dict[PeerId, list[_Connection]] = {}
        self._gate = Gate(
            connections_max=config.inbound_connections_max,
            connections_per_host_max=config.inbound_connections_per_host_max,
            handshakes_max=config.handshakes_max,
            handshakes_per_host_max=config.handshakes_per_host_max,
        )
        self._handshakes: dict[int, trio.CancelScope] = {}
        held_max = config.buffered_bytes_max
        self._unread = Budget(total_max=held_max, share_max=UNREAD_BYTES_MAX)
        self._unsent = Budget(total_max=held_max, share_max=UNSENT_BYTES_MAX)
        self._served = Budget(total_max=STREAMS_SERVED_MAX, share_max=INBOUND_STREAMS_MAX)
        announced = tuple(parse_address(text) for text in config.announce)
        self._addresses = () if config.client_mode else announced or listening_addresses(listeners)
        self._accepting = trio.CancelScope()
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to accept connections, with tasks in the nursery."""
        self._nursery = nursery
        self.set_handler(identify.PING_PROTOCOL, identify.serve_ping)
        self.set_handler(identify.IDENTIFY_PROTOCOL, self._serve_identify)
        nursery.start_soon(self._accept_all)

    async def close(self) -> None:
        """Accept nobody any more, and say farewell to all at once, bounded in time."""
        self._accepting.cancel()
        async with trio.open_nursery() as nursery:
            for connection in self._open_connections():
                nursery.start_soon(connection.muxer.say_farewell)

    # Transport

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        return self._addresses

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return tuple(
            connection.info for connection in self._open_connections() if connection.muxer.usable
        )

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        # The newest first: the peer may have come back while we still hold a dead connection.
        for connection in reversed(self._connections.get(peer_id, ())):
            if connection.muxer.usable:
                muxed = connection.muxer.open_stream()
                try:
                    await muxed.send_all(multistream.proposal(protocol))
                except BaseException:
                    muxed.reset()
                    raise
                return NegotiatedStream(
                    muxed, peer_id, protocol, connection.info.path, agreed=False
                )
        raise StreamBroken(f"no connection to {short(peer_id)}")

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while connections := self._open_connections(peer_id):
            await connections[0].muxer.lost.wait()

    async def disconnect(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        async with trio.open_nursery() as nursery:
            for connection in self._open_connections(peer_id):
                nursery.start_soon(connection.muxer.aclose)

    async def dial(self, peer_id: PeerId, address: TcpAddress) -> None:
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, ValueError) as exc:
            # ValueError: what a stranger announced as a host name need not be one.
            raise DialError(dial_cause(exc)) from exc
        self._begin(await self._upgrade(stream, address.of(peer_id), peer_id))

    async def accept_relayed(self, stream: Stream, source: PeerId) -> None:
        """Serve a peer that comes through a relay's stream; returns when it has gone.

        Raises:
            DialError: the peer is not the one that the relay named, or no libp2p peer.
        """
        address = f"/p2p/{stream.peer_id}/p2p-circuit/p2p/{source}"
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            connection = await self._upgrade(stream, address, None, path="relayed")
        if connection.info.peer_id != source:
            stream.reset()
            raise DialError(f"impostor: {connection.info.peer_id} came, announced as {source}")
        self._begin(connection)
        await connection.muxer.lost.wait()

    # Connections

    def _open_connections(self, peer_id: PeerId | None = None) -> list[_Connection]:
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
            admission = remote and self._gate.on_accepted(remote.host, trio.current_time())
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
                if self._gate.on_proved(remote.host):
                    self._begin(connection, counted_host=remote.host)
                else:
                    await trio.aclose_forcefully(stream)
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
    ) -> _Connection:
        """Turn a byte stream into a connection; whatever fails, the stream is closed."""
        try:
            noise = await upgrade(stream, self._identity, expected)
            if noise.peer_id == self._identity.peer_id:
                raise DialError("that is ourselves")
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        info = ConnectionInfo(
            peer_id=noise.peer_id,
            address=str(address),
            path=path,
            outbound=expected is not None,
            opened_at_s=trio.current_time(),
        )
        served = self._served.open_share()
        muxer = Muxer(
            noise,
            dialer=expected is not None,
            on_stream=lambda muxed: self._on_stream(muxed, info, served),
            unread=self._unread.open_share(),
            unsent=self._unsent.open_share(),
        )
        return _Connection(info, muxer)

    def _begin(self, connection: _Connection, counted_host: str | None = None) -> None:
        """Register the connection and let it run; an inbound one has been counted by the gate."""
        info = connection.info
        several = self._connections.setdefault(info.peer_id, [])
        several.append(connection)
        inbound = [one for one in several if not one.info.outbound]
        for oldest in inbound[:-CONNECTIONS_PER_PEER_MAX]:
            oldest.muxer.abort("too many connections of this peer")
        self._nursery.start_soon(self._run, connection, counted_host)

    async def _run(self, connection: _Connection, counted_host: str | None) -> None:
        info = connection.info
        peer = short(info.peer_id)
        logger.info("connected peer=%s address=%s outbound=%s", peer, info.address, info.outbound)
        open_now = CONNECTIONS.labels("outbound" if info.outbound else "inbound")
        open_now.inc()
        try:
            await connection.muxer.run()
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

    async def _serve_identify(self, stream: Stream) -> None:
        observed = next(
            (
                info.address
                for info in self.connections()
                if info.peer_id == stream.peer_id and info.path != "relayed"
            ),
            None,
        )
        await identify.serve_identify(
            stream,
            public_key=self._identity.public_key,
            listening=self._addresses,
            observed=parse_address(observed) if observed else None,
            protocols=tuple(sorted(self._handlers)),
        )
