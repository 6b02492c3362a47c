"""Reserving at relays, and receiving those who come to us through them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from p2p.clock import wall_time_s
from p2p.complaints import Complaints
from p2p.errors import MessageInvalid, P2PError, RefusedError, RemoteError
from p2p.host.stream import Stream
from p2p.host.transport import Transport
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.protobuf import framed
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
    check_voucher_untrusted,
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
)

logger = logging.getLogger(__name__)

RELAYS_MAX = 16
CIRCUITS_MAX = 64
"""Peers that may be here through relays at once, handshakes included."""
REFRESH_S_MIN = 30.0
REFRESH_S_MAX = 3_600.0


class RelayedTransport(Transport, Protocol):
    """A transport that takes connections from a stream, too."""

    async def accept_relayed(self, stream: Stream, source: PeerId, limit: CircuitLimit) -> None:
        """Serve a peer that comes through a relay's stream; returns when it has gone."""


@asynccontextmanager
async def open_relay_client(transport: RelayedTransport, me: PeerId) -> AsyncIterator[RelayClient]:
    """Receive circuits from the relays that we reserve at, until the block ends."""
    async with open_service_nursery() as nursery:
        client = RelayClient(transport, me, nursery)
        transport.set_handler(STOP_PROTOCOL, client.serve_stop)
        try:
            yield client
        finally:
            transport.set_handler(STOP_PROTOCOL, None)


def refresh_delay_s(expires_at_s: float, now_s: float) -> float:
    """When to refresh a reservation: at half its life, whatever the relay's clock says."""
    return min(max((expires_at_s - now_s) / 2, REFRESH_S_MIN), REFRESH_S_MAX)


@dataclass
class _Held:
    """A reservation, and the task that keeps it."""

    reservation: Reservation
    expires_at_s: float
    """On trio's clock."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def renew(self, reservation: Reservation) -> None:
        """The relay has granted it anew."""
        self.reservation = reservation
        self.expires_at_s = _expires_at_s(reservation)


def _expires_at_s(reservation: Reservation) -> float:
    """When it ends on our clock, within what we refresh by, whatever the relay's clock says."""
    half_s = refresh_delay_s(reservation.expires_at_s, wall_time_s())
    return trio.current_time() + 2 * half_s


class RelayClient:
    """Holds reservations, each refreshed until its relay refuses or goes."""

    def __init__(self, transport: RelayedTransport, me: PeerId, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._me = me
        self._nursery = nursery
        self._held: dict[PeerId, _Held] = {}
        self._changed = trio.Event()
        self._circuits = 0
        self._complaints = Complaints(logger, "relay_distrusted")

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """The relays that we hold a reservation at."""
        return tuple(self._held)

    @property
    def changed(self) -> trio.Event:
        """Set when a reservation is made, refreshed or lost next; another one then takes over."""
        return self._changed

    def held(self, relay: PeerId) -> Reservation | None:
        """The reservation at this relay, if there is one."""
        held = self._held.get(relay)
        return held.reservation if held is not None else None

    def expires_at_s(self, relay: PeerId) -> float:
        """When the reservation that we hold there ends unless refreshed, on trio's clock."""
        return self._held[relay].expires_at_s

    def give_up(self, relay: PeerId) -> None:
        """Refresh it no more, and take no circuits by it; harmless if there is none."""
        held = self._held.get(relay)
        if held is not None:
            held.scope.cancel()

    async def reserve(self, relay: PeerId) -> Reservation:
        """Reserve at a relay that we are connected to, and keep that up while we stay connected.

        Raises:
            RefusedError: it is full, does not want us, or is no relay.
            RemoteError: its answer makes no sense, or its voucher is not ours.
            StreamBroken: the connection was lost, or there is none.
        """
        if relay not in self._held and len(self._held) >= RELAYS_MAX:
            raise ValueError(f"reserve at {RELAYS_MAX} relays at most")
        try:
            reservation = await self._ask(relay)
        except MessageInvalid as exc:
            self._complaints.add(relay, str(exc))
            raise
        held = self._held.get(relay)
        if held is None:
            held = self._held[relay] = _Held(reservation, _expires_at_s(reservation))
            logger.info("relay_reserved relay=%s", short(relay))
            self._nursery.start_soon(self._keep, relay, held)
        else:
            held.renew(reservation)
        self._tell()
        return reservation

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _ask(self, relay: PeerId) -> Reservation:
        stream = await self._transport.open_stream(relay, HOP_PROTOCOL)
        try:
            await stream.send_all(framed(encode_hop(Hop(type=HopType.RESERVE))))
            answer = decode_hop_untrusted(await read_message_untrusted(stream))
            await stream.aclose()
        finally:
            stream.reset()
        if answer.type != HopType.STATUS or answer.status is None:
            raise MessageInvalid("the relay does not answer our request")
        if answer.status != Status.OK:
            raise RefusedError("reservation-refused", f"status {answer.status}")
        if answer.reservation is None:
            raise MessageInvalid("the relay grants a reservation without saying until when")
        if answer.reservation.voucher is not None:
            # Foreign relays may send none; one that is wrong is no reservation of ours.
            check_voucher_untrusted(answer.reservation.voucher, relay, self._me, wall_time_s())
        return answer.reservation

    async def _keep(self, relay: PeerId, held: _Held) -> None:
        """Refresh until the relay refuses, the time is over, or the connection is lost."""
        try:
            with held.scope:
                async with open_service_nursery() as nursery:
                    nursery.start_soon(self._refresh_always, relay, held)
                    await self._transport.wait_disconnected(relay)
        except (RefusedError, RemoteError) as exc:
            logger.warning("relay_lost relay=%s %s", short(relay), exc)
        finally:
            del self._held[relay]
            self._tell()

    async def _refresh_always(self, relay: PeerId, held: _Held) -> None:
        while True:
            await trio.sleep(refresh_delay_s(held.reservation.expires_at_s, wall_time_s()))
            try:
                with trio.fail_after(EXCHANGE_TIMEOUT_S):
                    held.renew(await self._ask(relay))
            except (RefusedError, RemoteError):
                raise
            except (P2PError, trio.TooSlowError) as exc:
                # A slow relay gets another chance; a lost connection ends us from outside.
                logger.debug("relay_refresh_failed relay=%s %r", short(relay), exc)
                if trio.current_time() >= held.expires_at_s:
                    raise RefusedError("reservation-expired", "the relay does not answer") from exc
            else:
                self._tell()

    async def serve_stop(self, stream: Stream) -> None:
        """A relay passes a peer on to us; lasts as long as that peer stays."""
        with trio.fail_after(EXCHANGE_TIMEOUT_S):
            try:
                request = decode_stop_untrusted(await read_message_untrusted(stream))
            except MessageInvalid as exc:
                self._complaints.add(stream.peer_id, str(exc))
                await _answer(stream, Status.MALFORMED_MESSAGE)
                return
            source = request.peer_id
            if request.type != StopType.CONNECT or source is None:
                await _answer(stream, Status.UNEXPECTED_MESSAGE)
                return
            if stream.path == "relayed" or stream.peer_id not in self._held:
                self._complaints.add(stream.peer_id, "brings a circuit unasked")
                await _answer(stream, Status.PERMISSION_DENIED)
                return
            if self._circuits >= CIRCUITS_MAX:
                await _answer(stream, Status.RESOURCE_LIMIT_EXCEEDED)
                return
            self._circuits += 1
        try:
            await _answer(stream, Status.OK)
            await self._transport.accept_relayed(stream, source, request.limit or CircuitLimit())
        finally:
            self._circuits -= 1


async def _answer(stream: Stream, status: Status) -> None:
    with trio.fail_after(EXCHANGE_TIMEOUT_S):
        await stream.send_all(framed(encode_stop(Stop(type=StopType.STATUS, status=status))))
