"""NetReport: how others can reach this node, as far as it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2p.peer_id import PeerId, short

Reachability = Literal["public", "private", "unknown"]
"""Whether outsiders get through to us: public, when they have shown that they do."""
Mapping = Literal["none", "endpoint-independent", "endpoint-dependent", "unknown"]
"""How the NAT before us chooses outside ports (RFC 4787, section 4.1); none: addresses stay."""
Behind = Literal["nothing", "firewall", "nat", "double-nat", "carrier-grade-nat", "unknown"]
"""What stands between us and the internet."""
Source = Literal["announced", "interface", "observed", "mapped", "relay"]
"""How we came to an address of ours."""

_WORDS: dict[Behind, str] = {
    "nothing": "nothing in the way",
    "firewall": "behind a firewall without NAT",
    "nat": "behind a NAT",
    "double-nat": "behind two NATs in a row",
    "carrier-grade-nat": "behind a carrier-grade NAT",
    "unknown": "",
}


@dataclass(frozen=True)
class AddressReport:
    """One address of ours, and what is known of it."""

    address: str
    """A multiaddress with our peer id."""
    source: Source
    reachability: Reachability
    """By dial-back; of an address at a relay: public while the reservation is held."""
    evidence: str
    """One plain sentence: 3 peers dialed it back, the last 12 s ago."""


@dataclass(frozen=True)
class PortMapping:
    """A port that the router passes on to us because we asked it to."""

    protocol: Literal["upnp", "nat-pmp", "pcp"]
    external: str
    """The outside end, as a multiaddress."""
    internal_port: int
    expires_in_s: float
    useless_because: str | None
    """Why the mapping leads nobody to us, such as a second NAT; None if it is of use."""


@dataclass(frozen=True)
class RelayReport:
    """A relay that we hold a reservation at."""

    peer_id: PeerId
    address: str
    """Where we can be reached through it."""
    expires_in_s: float
    round_trip_s: float | None


@dataclass(frozen=True)
class NetReport:
    """A node's own addresses and connections, and what stands between it and the internet."""

    addresses: tuple[str, ...]
    """What we tell others to dial; empty for a client."""
    client_mode: bool
    """Whether the node was told that it cannot be dialed."""
    connections_direct: int
    connections_punched: int
    connections_relayed: int
    reachability: Reachability = "unknown"
    mapping: Mapping = "unknown"
    behind: Behind = "unknown"
    details: tuple[AddressReport, ...] = ()
    """Every address that we know of, told to others or not."""
    port_mapping: PortMapping | None = None
    relays: tuple[RelayReport, ...] = ()
    port_mapping_problem: str | None = None
    """Why the router maps no port of use, and what to do, in a sentence; None if none was asked."""

    def __str__(self) -> str:
        if self.client_mode and not self.addresses:
            parts = ["client only"]
        else:
            told = ", ".join(self.addresses) or "no address"
            seen = {
                "public": "reachable from outside",
                "private": "not reachable from outside",
                "unknown": "not probed from outside",
            }[self.reachability]
            parts = [f"{seen}, told to others: {told}"]
        parts += [words for words in (_WORDS[self.behind],) if words]
        if self.mapping in ("endpoint-independent", "endpoint-dependent"):
            parts.append(f"{self.mapping} mapping")
        if self.port_mapping is not None:
            useless = self.port_mapping.useless_because
            suffix = f" (of no use: {useless})" if useless else ""
            parts.append(f"port mapped by {self.port_mapping.protocol}{suffix}")
        if self.relays:
            parts.append(f"relays: {', '.join(short(relay.peer_id) for relay in self.relays)}")
        total = self.connections_direct + self.connections_punched + self.connections_relayed
        parts.append(f"{total} connections")
        return "; ".join(parts)
