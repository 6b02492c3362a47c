"""Connections through relays: our handshake, end to end, over a stream that a relay splices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from p2p.address import CircuitAddress
from p2p.host.live import LiveConnection
from p2p.host.stream import Path, Stream
from p2p.host.transport import DialError, Transport
from p2p.peer_id import PeerId
from p2p.relay.circuit import open_circuit
from p2p.relay.schema import CircuitLimit

_HANDSHAKE_TIMEOUT_S = 10.0


class Upgrade(Protocol):
    """Turns a byte stream into a connection; whatever fails, the stream is closed."""

    def __call__(
        self,
        stream: Stream,
        address: str,
        expected: PeerId | None,
        path: Path,
        limit: CircuitLimit | None,
    ) -> Awaitable[LiveConnection]:
        """The connection to a peer that has proved its identity; raises DialError."""


class Relayed:
    """Opens and accepts circuits for one host."""

    def __init__(
        self,
        transport: Transport,
        me: PeerId,
        upgrade: Upgrade,
        begin: Callable[[LiveConnection], None],
    ) -> None:
        self._transport = transport
        self._me = me
        self._upgrade = upgrade
        self._begin = begin
        self._dialing: dict[PeerId, trio.Event] = {}

    async def dial(self, peer_id: PeerId, address: CircuitAddress) -> None:
        """Connect through the relay that the address names, and to that first if need be.

        Raises:
            DialError: it does not lead to the peer.
        """
        if address.relay_id == self._me:
            raise DialError("that relay is ourselves")
        if address.relay_id == peer_id:
            raise DialError("the relay and the peer behind it are the same")
        await self._connect_relay(address)
        stream, limit = await open_circuit(self._transport, address.relay_id, peer_id)
        text = str(address.of(peer_id))
        self._begin(await self._upgrade(stream, text, peer_id, "relayed", limit))

    async def accept(self, stream: Stream, source: PeerId, limit: CircuitLimit) -> None:
        """Serve a peer that comes through a relay's stream; returns when it has gone.

        Raises:
            DialError: the peer is not the one that the relay named, or no libp2p peer.
        """
        relay = self._relay_address(stream.peer_id)
        address = f"{relay}/p2p-circuit/p2p/{source}"
        with trio.fail_after(_HANDSHAKE_TIMEOUT_S):
            connection = await self._upgrade(stream, address, None, "relayed", limit)
        if connection.info.peer_id != source:
            stream.reset()
            await connection.session.aclose()
            raise DialError(f"impostor: {connection.info.peer_id} came, announced as {source}")
        self._begin(connection)
        await connection.muxer.lost.wait()

    def _relay_address(self, relay: PeerId) -> str:
        for info in self._transport.connections():
            if info.peer_id == relay and info.path != "relayed":
                return f"{info.address.partition('/p2p/')[0]}/p2p/{relay}"
        return f"/p2p/{relay}"

    async def _connect_relay(self, address: CircuitAddress) -> None:
        """A direct connection to the relay; circuits that need it at once share one dial."""
        while not self._has_direct(address.relay_id):
            other = self._dialing.get(address.relay_id)
            if other is not None:
                # Its failure is not ours: the address may be another one.
                await other.wait()
                continue
            async with self._dial_shared(address.relay_id):
                try:
                    await self._transport.dial(address.relay_id, address.relay)
                except DialError as exc:
                    raise DialError(f"the relay cannot be reached: {exc}") from exc
                if not self._has_direct(address.relay_id):
                    raise DialError("the connection to the relay was lost at once")

    @asynccontextmanager
    async def _dial_shared(self, relay: PeerId) -> AsyncIterator[None]:
        over = self._dialing[relay] = trio.Event()
        try:
            yield
        finally:
            del self._dialing[relay]
            over.set()

    def _has_direct(self, peer_id: PeerId) -> bool:
        return any(
            info.peer_id == peer_id and info.path != "relayed"
            for info in self._transport.connections()
        )
