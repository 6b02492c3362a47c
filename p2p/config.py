"""NodeConfig: how a node presents itself, whom it listens to, and what it will bear."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from p2p.address import parse_address, parse_tcp_address
from p2p.errors import MessageInvalid
from p2p.identity import parse_peer_id_untrusted
from p2p.peer_id import PeerId
from p2p.probe.limits import BandwidthLimits
from p2p.relay.limits import RelayLimits


@dataclass(frozen=True, kw_only=True)
class AccessConfig:
    """Who decides about access, and what we show for it."""

    authority: PeerId
    """The peer id of the key that signs tokens."""
    run: str
    """What the tokens must be for."""
    token_path: Path
    """Our own token; read for each connection, so a new one is put in its place."""
    deny_list_path: Path | None = None
    """The authority's deny list, if we are to bring one, read again when it has changed; newer ones
    come from others."""


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """How a node presents itself and whom it listens to."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddresses to listen on; port 0 takes a free one. Loopback only, unless told."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found on our interfaces."""
    identity_path: Path | None = None
    """Key file, made when missing; None takes a new identity each time."""
    peerstore_path: Path | None = None
    """SQLite file of known peers, made when missing; None remembers them until the node closes."""
    client_mode: bool = False
    """Cannot be dialed: listens nowhere, announces nothing."""
    dial_timeout_s: float = 10.0
    """How long one address may take, handshake included."""
    inbound_connections_max: int = 512
    """Connections that others opened; further ones are closed at once."""
    inbound_connections_per_host_max: int = 256
    """The same from one address (one /64 for IPv6), so that one host cannot take all places."""
    inbound_connections_per_range_max: int = 384
    """The same from one range of addresses (/24 for IPv4, /48 for IPv6)."""
    handshakes_per_s_max: int = 200
    """Inbound handshakes in a second, from strangers and again from known peers; each costs a
    millisecond of a core."""
    handshakes_per_s_and_host_max: int = 50
    """The same from one address."""
    allow_peers: tuple[PeerId, ...] = ()
    """Only these peers may connect, either way; empty lets everybody in who is not denied. Beside
    access, they are those who need no token."""
    deny_peers: tuple[PeerId, ...] = ()
    """These peers may not connect, whatever else says that they may."""
    swarm_key_path: Path | None = None
    """File with a key that all members share; None lets in who does not have one."""
    access: AccessConfig | None = None
    """Only peers with a token of an authority get in; None asks nobody for one."""
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
    bandwidth_limits: BandwidthLimits = field(default_factory=BandwidthLimits)
    """How much others may measure the speed of our line."""

    dial_back: bool = True
    """Ask peers to dial us, to learn whether outsiders get through, and dial those who ask us."""
    port_mapping: bool = True
    """Ask the router for a port by UPnP, NAT-PMP or PCP."""
    relays: tuple[str, ...] = ()
    """Addresses of relays to use beside those that are found."""
    relay_client: Literal["auto", "never", "always"] = "auto"
    """Hold reservations at relays: auto while outsiders do not get through to us."""
    hole_punching: bool = True
    """Punch holes to peers that are reached through relays; it costs a few packets each."""
    mdns: bool = False
    """Find peers on the same local network, and be found there."""
    record_layer: Literal["auto", "noise"] = "auto"
    """auto: AES-GCM records with peers of our kind if both are faster with them; noise: never."""

    def __post_init__(self) -> None:
        for name in ("listen", "announce", "relays"):
            addresses = getattr(self, name)
            if isinstance(addresses, str):
                raise ValueError(f"{name} takes several addresses: write ({addresses!r},)")
            for address in addresses:
                parse = parse_tcp_address if name == "listen" else parse_address
                parse(address)
        for name in ("allow_peers", "deny_peers"):
            for text in getattr(self, name):
                try:
                    parse_peer_id_untrusted(text)
                except MessageInvalid as exc:
                    raise ValueError(f"{name}: {exc}") from exc
        if not self.dial_timeout_s > 0:
            raise ValueError("dial_timeout_s must be positive")
        if self.relay_client not in ("auto", "never", "always"):
            raise ValueError(
                f"relay_client must be auto, never or always, not {self.relay_client!r}"
            )
        if self.record_layer not in ("auto", "noise"):
            raise ValueError(f"record_layer must be auto or noise, not {self.record_layer!r}")
        for name in (
            "inbound_connections_max",
            "inbound_connections_per_host_max",
            "inbound_connections_per_range_max",
            "handshakes_per_s_max",
            "handshakes_per_s_and_host_max",
            "handshakes_max",
            "handshakes_per_host_max",
            "buffered_bytes_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
