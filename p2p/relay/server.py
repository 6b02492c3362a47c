"""The relay: grants reservations, and splices a dialer's stream to one of the peer it wants."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from multiaddr import Multiaddr

from p2p.address import TcpAddress, parse_tcp_address
from p2p.clock import wall_time_s
from p2p.complaints import Complaints
from p2p.errors import MessageInvalid, P2PError, StreamBroken
from p2p.host.stream import Stream
from p2p.host.transport import Transport
from p2p.identity import Identity
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.protobuf import framed
from p2p.relay.limits import RelayLimits
from p2p.relay.reservations import Circuit, Reservations
from p2p.relay.schema import (
    EXCHANGE_TIMEOUT_S,
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    CircuitLimit,
    Hop,
    HopType,
    Reservation,
    Status,
    Stop,
    StopType,
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
    voucher,
)

logger = logging.getLogger(__name__)

_PIECE_BYTES = 262_144
"""A whole frame between peers of our kind."""


@asynccontextmanager
async def open_relay_server(
    transport: Transport, identity: Identity, limits: RelayLimits
) -> AsyncIterator[RelayServer]:
    """Serve as a relay until the block ends; circuits end with it."""
    async with open_service_nursery() as nursery:
        server = RelayServer(transport, identity, limits, nursery)
        transport.set_handler(HOP_PROTOCOL, server.serve_hop)
        try:
            yield server
        finally:
            transport.set_handler(HOP_PROTOCOL, None)


class RelayServer:
    """Serves the hop protocol on one transport."""

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        limits: RelayLimits,
        nursery: trio.Nursery,
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._limits = limits
        self._nursery = nursery
        self._reservations = Reservations(limits, trio.current_time())
        self._watched: set[PeerId] = set()
        self._complaints = Complaints(logger, "relay_refuses")
        self._news = trio.Event()

    @property
    def holders(self) -> tuple[PeerId, ...]:
        """The peers that hold a reservation here."""
        return self._reservations.holders(trio.current_time())

    async def wait_reserved(self, peer_id: PeerId) -> None:
        """Return when the peer holds a reservation."""
        while peer_id not in self.holders:
            await self._news.wait()

    async def serve_hop(self, stream: Stream) -> None:
        """Answer one request; a circuit lasts as long as its stream."""
        with trio.fail_after(EXCHANGE_TIMEOUT_S):
            try:
                request = decode_hop_untrusted(await read_message_untrusted(stream))
            except MessageInvalid as exc:
                self._complaints.add(stream.peer_id, str(exc))
                await _answer(stream, Status.MALFORMED_MESSAGE)
                return
            if stream.path == "relayed":
                # A relay behind a relay would hide who spends what of ours.
                self._complaints.add(stream.peer_id, "asks over a circuit")
                await _answer(stream, Status.PERMISSION_DENIED)
                return
            address = self._address_of(stream.peer_id)
            now_s = trio.current_time()
            if address is None or not self._reservations.on_request(
                stream.peer_id, address.host, now_s
            ):
                self._complaints.add(stream.peer_id, "asks too often")
                await _answer(stream, Status.RESOURCE_LIMIT_EXCEEDED)
                return
            if request.type == HopType.RESERVE:
                await self._reserve(stream, address.host)
                return
            if request.type != HopType.CONNECT or request.peer_id is None:
                await _answer(stream, Status.UNEXPECTED_MESSAGE)
                return
        await self._connect(stream, request.peer_id)

    async def _reserve(self, stream: Stream, host: str) -> None:
        now_s = trio.current_time()
        granted = self._reservations.on_reserve(stream.peer_id, host, now_s)
        if granted is None:
            self._complaints.add(stream.peer_id, "no place for another reservation")
            await _answer(stream, Status.RESERVATION_REFUSED)
            return
        expires_at_s = int(wall_time_s() + granted - now_s)
        addresses = tuple(
            Multiaddr(str(one.of(self._identity.peer_id))).to_bytes()
            for one in self._transport.addresses
            if isinstance(one, TcpAddress)
        )
        reservation = Reservation(
            expires_at_s=expires_at_s,
            addresses=addresses,
            voucher=voucher(self._identity, stream.peer_id, expires_at_s),
        )
        if stream.peer_id not in self._watched:
            self._watched.add(stream.peer_id)
            self._nursery.start_soon(self._watch, stream.peer_id)
        await stream.send_all(
            framed(
                encode_hop(
                    Hop(
                        type=HopType.STATUS,
                        status=Status.OK,
                        reservation=reservation,
                        limit=self._limit,
                    )
                )
            )
        )
        logger.info("reserved peer=%s", short(stream.peer_id))
        self._news.set()
        self._news = trio.Event()

    async def _watch(self, peer_id: PeerId) -> None:
        await self._transport.wait_disconnected(peer_id)
        self._reservations.on_disconnected(peer_id)
        self._watched.discard(peer_id)

    def _address_of(self, peer_id: PeerId) -> TcpAddress | None:
        for info in self._transport.connections():
            if info.peer_id == peer_id and info.path != "relayed":
                return parse_tcp_address(info.address)
        return None

    @property
    def _limit(self) -> CircuitLimit:
        return CircuitLimit(
            duration_s=self._limits.circuit_duration_s,
            bytes_each_way=self._limits.circuit_bytes_each_way,
        )

    async def _connect(self, source: Stream, target_id: PeerId) -> None:
        outcome = self._reservations.on_connect(source.peer_id, target_id, trio.current_time())
        if isinstance(outcome, Status):
            if outcome != Status.NO_RESERVATION:
                self._complaints.add(source.peer_id, f"no circuit: {outcome.name}")
            await _answer(source, outcome)
            return
        try:
            target = await self._stop(source.peer_id, target_id)
            if target is None:
                await _answer(source, Status.CONNECTION_FAILED)
                return
            try:
                await _answer(source, Status.OK, self._limit)
                await self._splice(outcome, source, target)
            finally:
                target.reset()
        finally:
            self._reservations.on_circuit_over(outcome)

    async def _stop(self, source_id: PeerId, target_id: PeerId) -> Stream | None:
        """A stream to the target that it has accepted as a circuit, or None."""
        stream: Stream | None = None
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                stream = await self._transport.open_stream(target_id, STOP_PROTOCOL)
                message = Stop(type=StopType.CONNECT, peer_id=source_id, limit=self._limit)
                await stream.send_all(framed(encode_stop(message)))
                answer = decode_stop_untrusted(await read_message_untrusted(stream))
            if answer.type == StopType.STATUS and answer.status == Status.OK:
                accepted, stream = stream, None
                return accepted
        except (P2PError, trio.TooSlowError) as exc:
            logger.debug("stop_failed target=%s %r", short(target_id), exc)
        finally:
            if stream is not None:
                stream.reset()
        return None

    async def _splice(self, circuit: Circuit, source: Stream, target: Stream) -> None:
        """Carry bytes both ways until both have ended, or a limit says that it is enough."""
        with trio.CancelScope(deadline=circuit.ends_at_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, circuit, source, target)
                nursery.start_soon(self._carry, circuit, target, source)
        if scope.cancelled_caught:
            self._complaints.add(source.peer_id, "its circuit has lasted for as long as it may")
            source.reset()

    async def _carry(self, circuit: Circuit, sender: Stream, receiver: Stream) -> None:
        while data := await sender.receive_some(_PIECE_BYTES):
            passage = self._reservations.on_bytes(
                circuit, sender.peer_id, len(data), trio.current_time()
            )
            if passage.passed_bytes < len(data):
                cause = "the circuit has carried all that it may"
                self._complaints.add(sender.peer_id, cause)
                raise StreamBroken(cause)
            await receiver.send_all(data)
            if passage.wait_s:
                # Meanwhile the sender's window stays shut, so that nothing piles up here.
                await trio.sleep(passage.wait_s)
        await receiver.send_eof()


async def _answer(stream: Stream, status: Status, limit: CircuitLimit | None = None) -> None:
    with trio.fail_after(EXCHANGE_TIMEOUT_S):
        await stream.send_all(
            framed(encode_hop(Hop(type=HopType.STATUS, status=status, limit=limit)))
        )
