"""NodeConfig: how a node presents itself, whom it listens to, and what it will bear."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p2p.address import parse_address
from p2p.relay.reservations import RelayLimits


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """How a node presents itself and whom it listens to."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddresses to listen on; port 0 takes a free one. Loopback only, unless told."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found on our interfaces."""
    identity_path: Path | None = None
    """Key file, made when missing; None takes a new identity each time."""
    client_mode: bool = False
    """Cannot be dialed: listens nowhere, announces nothing."""
    dial_timeout_s: float = 10.0
    """How long one address may take, handshake included."""
    inbound_connections_max: int = 512
    """Connections that others opened; further ones are closed at once."""
    inbound_connections_per_host_max: int = 256
    """The same from one address (one /64 for IPv6), so that one host cannot take all places."""
    handshakes_max: int = 128
    """Inbound connections that have not proved an identity yet; the greediest host gives way."""
    handshakes_per_host_max: int = 64
    """The same from one address; its oldest gives way."""
    buffered_bytes_max: int = 268_435_456
    """What all peers together can make us hold unread, and as much unsent; machines differ."""
    relay: bool = False
    """Serve as a relay: pass bytes on between others, within relay_limits."""
    relay_limits: RelayLimits = field(default_factory=RelayLimits)
    """What a relay gives to others; what one can spare differs."""

    def __post_init__(self) -> None:
        for name in ("listen", "announce"):
            addresses = getattr(self, name)
            if isinstance(addresses, str):
                raise ValueError(f"{name} takes several addresses: write ({addresses!r},)")
            for address in addresses:
                parse_address(address)
        if not self.dial_timeout_s > 0:
            raise ValueError("dial_timeout_s must be positive")
        for name in (
            "inbound_connections_max",
            "inbound_connections_per_host_max",
            "handshakes_max",
            "handshakes_per_host_max",
            "buffered_bytes_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
