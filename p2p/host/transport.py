"""Transport: what a node needs of the machinery below it, real or simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from p2p.address import Address, TcpAddress
from p2p.errors import P2PError
from p2p.host.stream import Path, Stream, StreamHandler
from p2p.peer_id import PeerId
from p2p.relay.schema import CircuitLimit


class DialError(P2PError):
    """One address did not lead to the peer; the text is the cause."""


@dataclass(frozen=True)
class ConnectionInfo:
    """An open connection, as reports and tools show it."""

    peer_id: PeerId
    address: str
    """The other end's address, as our socket sees it."""
    path: Path
    outbound: bool
    opened_at_s: float
    """On trio's clock."""
    record_layer: str
    """What seals the bytes: /noise, or /manyhands/aes-gcm/1 where both are faster with it."""
    limit: CircuitLimit | None = None
    """What a relay lets the connection carry; None when it is not relayed."""
    local: TcpAddress | None = None
    """Our end of the socket; None for a relayed connection."""
    from_listen_port: bool = False
    """Whether our dialing socket shared the port that we listen on: only then what the other end
    sees of us is where a router may pass others on to our listener."""


@dataclass(frozen=True)
class Identified:
    """What the other end of a connection says of itself and of us; unproven but for its peer id."""

    peer_id: PeerId
    observed: TcpAddress | None
    """Our end of the connection, as the peer's socket sees it; None if it told no TCP address."""
    protocols: frozenset[str]
    """What it says that it serves."""
    listening: tuple[Address, ...]
    """Where it says that it can be dialed."""
    agent: str
    """Its program, as it calls itself; printable."""


OnIdentified = Callable[[ConnectionInfo, Identified], None]


class Transport(Protocol):
    """Connections to proven peers, and streams on them."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where others can dial us, as set last; empty for a client."""

    def set_addresses(self, addresses: tuple[Address, ...]) -> None:
        """From now on tell others these."""

    @property
    def listening_on(self) -> tuple[TcpAddress, ...]:
        """Where our own interfaces can be dialed, whatever is announced; empty for a client."""

    async def dial(self, peer_id: PeerId, address: Address) -> None:
        """Connect to the peer at one address, through its relay when it names one.

        Raises:
            DialError: it does not lead to the peer; never for being connected.
        """

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """A stream to a connected peer; raises StreamBroken when there is no connection."""

    def set_handler(self, protocol: str, handler: StreamHandler | None) -> None:
        """Serve a protocol; None stops serving it."""

    def connections(self, peer_id: PeerId | None = None) -> tuple[ConnectionInfo, ...]:
        """The open connections, to one peer or to all, but those that take no new streams."""

    async def ask_who(self, peer_id: PeerId) -> Identified | None:
        """What a connected peer says of itself; None if it says nothing, or is not connected."""

    def watched(self, peer_ids: Iterable[PeerId]) -> AbstractContextManager[None]:
        """While the block lasts, the connections to these peers are probed more often."""

    async def wait_disconnected(self, peer_id: PeerId) -> None:
        """Return when no connection to the peer is open; at once when there is none."""

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer."""
