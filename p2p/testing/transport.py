"""SimTransport: one node's place in a simulated network, for Node to stand on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import trio

from p2p.address import Address, CircuitAddress, TcpAddress
from p2p.errors import P2PError, StreamBroken
from p2p.host.stream import Path, Stream, StreamHandler
from p2p.host.transport import ConnectionInfo, DialError, Identified, OnIdentified
from p2p.peer_id import PeerId, short
from p2p.relay.schema import CircuitLimit
from p2p.testing.connection import ConnectionEnd
from p2p.testing.lane import Lane, Mailbox
from p2p.testing.paths import Paths
from p2p.testing.reach import Reach
from p2p.testing.stream import SimStream

logger = logging.getLogger(__name__)

# Where connections of dialing nodes seem to come from.
_EPHEMERAL_PORT = 50_000


@dataclass(frozen=True)
class HandlerError:
    """An error that escaped from a stream's handler; a real node logs it."""

    peer_id: PeerId
    """Whose handler."""
    protocol: str
    error: Exception

    def __str__(self) -> str:
        return f"{short(self.peer_id)} {self.protocol}: {self.error!r}"


class SimTransport:
    """Connections and streams of one simulated node; run() delivers to it what arrives."""

    def __init__(
        self,
        peer_id: PeerId,
        listening: TcpAddress,
        paths: Paths,
        listeners: Mapping[tuple[str, int], SimTransport],
        reach: Reach,
        nursery: trio.Nursery,
        *,
        client_mode: bool,
        silence_s_max: float,
        on_handler_error: Callable[[HandlerError], None],
    ) -> None:
        self.peer_id = peer_id
        self.listening = listening
        self._client_mode = client_mode
        self._addresses: tuple[Address, ...] = () if client_mode else (listening,)
        self._paths = paths
        self._listeners = listeners
        self._reach = reach
        self._nursery = nursery
        self._silence_s_max = silence_s_max
        self._on_handler_error = on_handler_error
        self._mailbox = Mailbox(peer_id)
        self._handlers: dict[str, StreamHandler] = {}
        self._ends: dict[ConnectionEnd, SimTransport] = {}
        self.on_identified: list[OnIdentified] = []
        self._identified: dict[ConnectionEnd, Identified] = {}
        self._open_ends: dict[PeerId, list[ConnectionEnd]] = {}
        self._infos: tuple[ConnectionInfo, ...] | None = ()
        self._is_up = True
        nursery.start_soon(self._mailbox.run)

    # Transport

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._addresses

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        self._addresses = addresses

    @property
    def listening_on(self) -> tuple[TcpAddress, ...]:
        return () if self._client_mode else (self.listening,)

    async def dial(self, peer_id: PeerId, address: Address) -> None:
        if not self._is_up:
            raise DialError("this node has crashed")
        if isinstance(address, CircuitAddress):
            target, limit = self._reach.behind(self.peer_id, address, peer_id)
            end = self._begin_connection(target, address, "relayed", limit)
        else:
            target = await self._listener_at(address)
            end = self._begin_connection(target, address, "direct")
        await self._finish_dial(end, peer_id)

    async def _listener_at(self, address: TcpAddress) -> SimTransport:
        target = self._listeners.get((address.host, address.port))
        if target is None:
            await trio.sleep(2 * self._paths.default.latency_s)
            raise DialError("connection refused (nothing listens there)")
        if target is self:
            raise DialError("that is ourselves")
        if target.peer_id in self._reach.private:
            # Its router drops what comes; the dialer loses its patience.
            await trio.sleep_forever()
        return target

    def reserve(self, relay: TcpAddress) -> None:
        """Be connected to a relay, as whoever holds a place there is."""
        assert relay.peer_id is not None
        if relay.peer_id not in self._open_ends:
            self._nursery.start_soon(self._connect_relay, relay, relay.peer_id)

    async def _connect_relay(self, relay: TcpAddress, peer_id: PeerId) -> None:
        try:
            await self.dial(peer_id, replace(relay, peer_id=None))
        except DialError as exc:
            logger.debug("relay_not_reached peer=%s cause=%s", short(peer_id), exc)

    async def _finish_dial(self, end: ConnectionEnd, peer_id: PeerId) -> None:
        try:
            end.dial(peer_id)
            await end.decided.wait()
        except trio.Cancelled:
            end.close()
            raise
        if end.failure:
            raise DialError(end.failure)

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        await trio.lowlevel.checkpoint_if_cancelled()
        ends = self._open_ends.get(peer_id)
        if not ends:
            raise StreamBroken(f"no connection to {short(peer_id)}")
        unrelayed = [end for end in ends if end.relay is None]
        # The newest: the peer may have come back while we still hold a dead connection.
        return (unrelayed or ends)[-1].open_stream(protocol)

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        if handler is None:
            self._handlers.pop(protocol, None)
        else:
            self._handlers[protocol] = handler

    def connections(self, peer_id: PeerId | None = None) -> tuple[ConnectionInfo, ...]:
        if peer_id is not None:
            return tuple(end.info for end in self._open_ends.get(peer_id, ()))
        if self._infos is None:
            self._infos = tuple(end.info for ends in self._open_ends.values() for end in ends)
        return self._infos

    def watched(self, peer_ids: Iterable[PeerId]) -> AbstractContextManager[None]:
        # A simulated connection notices silence in one time, which the network was given.
        return nullcontext()

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while ends := self._open_ends.get(peer_id):
            await ends[0].lost.wait()

    async def disconnect(self, peer_id: PeerId) -> None:
        for end in tuple(self._open_ends.get(peer_id, ())):
            end.close()
        await trio.lowlevel.checkpoint()

    # What the network does to the node

    def close(self) -> None:
        """The node ends in order: the others hear of it after all that was sent before."""
        self._is_up = False
        for end in tuple(self._ends):
            end.close()

    def crash(self) -> None:
        """The node dies: all connections break, and there will be no new ones."""
        self._is_up = False
        for end in tuple(self._ends):
            end.crash()

    def drop(self, peer_id: PeerId) -> None:
        """Break the connections to a peer, at both ends at once."""
        for end in tuple(self._open_ends.get(peer_id, ())):
            end.lose()
            end.far.lose()

    def on_relay_gone(self, relay: PeerId) -> None:
        """A relay serves no more: what led through it breaks."""
        for end in tuple(self._ends):
            if end.relay == relay:
                end.crash()

    def on_paths_changed(self) -> None:
        """Some path was cut or is whole again."""
        for end in tuple(self._ends):
            end.on_paths_changed()

    # Connections

    def _begin_connection(
        self, target: SimTransport, address: Address, path: Path, limit: CircuitLimit | None = None
    ) -> ConnectionEnd:
        """Make both ends of a connection that nobody has accepted yet."""
        origin: Address = TcpAddress("ip4", self.listening.host, _EPHEMERAL_PORT + len(self._ends))
        if isinstance(address, CircuitAddress):
            origin = CircuitAddress(address.relay)
        there, here = str(address.of(target.peer_id)), str(origin.of(self.peer_id))
        near = self._new_end(target, there, origin, path, limit, outbound=True)
        far = target._new_end(self, here, address, path, limit, outbound=False)
        near.far, far.far = far, near
        near.on_paths_changed()
        return near

    def _new_end(
        self,
        other: SimTransport,
        address: str,
        local: Address,
        path: Path,
        limit: CircuitLimit | None,
        *,
        outbound: bool,
    ) -> ConnectionEnd:
        relay = local.relay_id if isinstance(local, CircuitAddress) else None
        info = ConnectionInfo(
            peer_id=other.peer_id,
            address=address,
            path=path,
            outbound=outbound,
            opened_at_s=trio.current_time(),
            record_layer="simulated",
            limit=limit,
            local=replace(local, peer_id=None) if isinstance(local, TcpAddress) else None,
        )
        bytes_max = math.inf
        if limit is not None and limit.bytes_each_way is not None:
            bytes_max = limit.bytes_each_way
        lane = Lane(self._paths, self._mailbox, other._mailbox, relay=relay, bytes_max=bytes_max)
        end = ConnectionEnd(self, info, lane, silence_s_max=self._silence_s_max)
        lane.on_full = lambda: self._cut(end)
        self._ends[end] = other
        return end

    def _cut(self, end: ConnectionEnd) -> None:
        """The relay passes no more on."""
        self._reach.circuits_cut += 1
        end.crash()

    def on_connected(self, end: ConnectionEnd) -> None:
        """A connection has been made."""
        self._open_ends.setdefault(end.info.peer_id, []).append(end)
        self._infos = None
        if self.on_identified and end.relay is None:
            self._nursery.start_soon(self._identify, end)
        if end.relay is not None and not end.info.outbound:
            self._nursery.start_soon(self._punch, end)

    async def _punch(self, end: ConnectionEnd) -> None:
        """Get rid of the relay, as the real hole puncher does: here it takes two round trips."""
        peer_id, target = end.info.peer_id, self._ends[end]
        link = self._paths.link(self.peer_id, peer_id, end.relay)
        await trio.sleep(4 * link.latency_s)
        ends = self._open_ends.get(peer_id, [])
        if end not in ends or any(one.relay is None for one in ends):
            return
        if peer_id in self._reach.private and not self._reach.can_punch(self.peer_id, peer_id):
            return
        path: Path = "punched" if peer_id in self._reach.private else "direct"
        new_end = self._begin_connection(target, target.listening, path)
        try:
            await self._finish_dial(new_end, peer_id)
        except DialError as exc:
            logger.debug("punch_failed peer=%s cause=%s", short(peer_id), exc)

    async def _identify(self, end: ConnectionEnd) -> None:
        await self._learn(end)
        if end in self._identified:
            for callback in tuple(self.on_identified):
                callback(end.info, self._identified[end])

    async def _learn(self, end: ConnectionEnd) -> None:
        """What the real host learns by a stream; here nothing is sent for it."""
        await trio.sleep(2 * self._paths.default.latency_s)
        other = self._ends.get(end)
        if other is None:
            return
        assert end.info.local is not None
        self._identified[end] = Identified(
            peer_id=other.peer_id,
            observed=end.info.local,
            protocols=frozenset(other._handlers),
            listening=other.addresses,
            agent="simulated",
        )

    def identified(self, peer_id: PeerId) -> Identified | None:
        """What the peer said of itself on the newest connection that it answered on."""
        ends = [end for end in self._open_ends.get(peer_id, ()) if end in self._identified]
        return self._identified[ends[-1]] if ends else None

    async def ask_who(self, peer_id: PeerId) -> Identified | None:
        known = self.identified(peer_id)
        for end in self._open_ends.get(peer_id, [])[-1:] if known is None else ():
            await self._learn(end)
        return known or self.identified(peer_id)

    def on_closed(self, end: ConnectionEnd) -> None:
        """A connection is gone, or never came about."""
        del self._ends[end]
        self._identified.pop(end, None)
        several = self._open_ends.get(end.info.peer_id, [])
        if end in several:
            several.remove(end)
            if not several:
                del self._open_ends[end.info.peer_id]
            self._infos = None

    # Streams

    def is_serving(self, protocol: str) -> bool:
        """Whether a stream of this protocol is welcome."""
        return protocol in self._handlers

    def on_stream(self, stream: SimStream) -> None:
        """A peer has opened a stream."""
        self._nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: SimStream) -> None:
        """Serve one inbound stream as the real host does; its errors reach nothing else."""
        try:
            handler = self._handlers.get(stream.protocol)
            if handler is None:
                raise StreamBroken(f"{stream.protocol} is served no more")
            await handler(stream)
            await stream.aclose()
        except* (P2PError, trio.TooSlowError) as group:
            logger.debug("stream_ended peer=%s %r", short(stream.peer_id), group.exceptions)
        except* Exception as group:
            # A stranger's stream must not take the node down; the test finds the error later.
            logger.error("stream_handler_failed peer=%s", short(stream.peer_id), exc_info=group)
            for error in group.exceptions:
                self._on_handler_error(HandlerError(self.peer_id, stream.protocol, error))
        finally:
            stream.reset()
