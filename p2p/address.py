"""Multiaddresses: parse, check, print, sort, and tell private from public."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from p2p.errors import AddressInvalid, MessageInvalid
from p2p.identity import parse_peer_id_untrusted
from p2p.peer_id import PeerId

_TEXT_MAX = 512
ANNOUNCED_TEXT_MAX = 256
"""What protocols let a peer say of one of its addresses; longer ones are dialed, not passed on."""
_CIRCUIT = "/p2p-circuit"
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True)
class TcpAddress:
    """Where a peer listens for TCP: a host kind, a host and a port, perhaps with its peer id."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    peer_id: PeerId | None = None

    def __str__(self) -> str:
        text = f"/{self.kind}/{self.host}/tcp/{self.port}"
        return f"{text}/p2p/{self.peer_id}" if self.peer_id else text

    def of(self, peer_id: PeerId) -> TcpAddress:
        """The same address with this peer id."""
        return TcpAddress(self.kind, self.host, self.port, peer_id)


@dataclass(frozen=True)
class CircuitAddress:
    """How a peer is reached through a relay: where the relay is dialed, and the peer behind it."""

    relay: TcpAddress
    """With the relay's peer id."""
    peer_id: PeerId | None = None

    def __post_init__(self) -> None:
        if self.relay.peer_id is None:
            raise ValueError("a circuit needs the relay's peer id")
        if self.relay.peer_id == self.peer_id:
            raise ValueError("a circuit to the relay itself")

    def __str__(self) -> str:
        text = f"{self.relay}{_CIRCUIT}"
        return f"{text}/p2p/{self.peer_id}" if self.peer_id else text

    @property
    def relay_id(self) -> PeerId:
        """Which peer is the relay."""
        assert self.relay.peer_id is not None
        return self.relay.peer_id

    def of(self, peer_id: PeerId) -> CircuitAddress:
        """The same way to this peer; raises ValueError when that is the relay itself."""
        return CircuitAddress(self.relay, peer_id)


Address = TcpAddress | CircuitAddress
"""Where a peer can be reached."""
AnyAddress = TypeVar("AnyAddress", TcpAddress, Address)


def first_hop(address: Address) -> TcpAddress:
    """Where our own socket goes: to the peer, or to the relay before it."""
    return address.relay if isinstance(address, CircuitAddress) else address


def is_circuit(text: str) -> bool:
    """Whether the text of an address leads through a relay."""
    return _CIRCUIT in text


# Peers tell each other the same addresses again and again; errors are not kept.
@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """Read a multiaddress such as /ip4/1.2.3.4/tcp/31337/p2p/12D3KooW….

    Or of a way through a relay: /ip4/…/tcp/…/p2p/<relay>/p2p-circuit/p2p/<peer>.

    Raises:
        AddressInvalid: it is neither; the text says what is wrong with it.
    """
    if len(text) > _TEXT_MAX:
        raise AddressInvalid(f"the address is longer than {_TEXT_MAX} characters")
    before, circuit, behind = text.strip().partition(_CIRCUIT)
    hop = _parse_hop(text, before.split("/"))
    if not circuit:
        return hop
    if is_circuit(behind):
        raise AddressInvalid(f"{text!r}: a relay is not reached through another relay")
    if hop.peer_id is None:
        raise AddressInvalid(f"{text!r}: expected /p2p/<peer id of the relay> before {_CIRCUIT}")
    peer_id = None
    if behind:
        parts = behind.split("/")
        if len(parts) != 3 or parts[0] != "":
            raise AddressInvalid(f"{text!r}: expected /p2p/<peer id> after {_CIRCUIT}")
        peer_id = _parse_peer(text, parts[1], parts[2])
    if peer_id == hop.peer_id:
        raise AddressInvalid(f"{text!r}: the relay and the peer behind it are the same")
    return CircuitAddress(hop, peer_id)


def parse_tcp_address(text: str) -> TcpAddress:
    """The same where no relay can be meant; raises AddressInvalid."""
    address = parse_address(text)
    if isinstance(address, CircuitAddress):
        raise AddressInvalid(f"{text!r} leads through a relay; a TCP multiaddress is needed here")
    return address


def _parse_hop(text: str, parts: list[str]) -> TcpAddress:
    if parts[0] != "" or len(parts) not in (5, 7) or parts[3] != "tcp":
        raise AddressInvalid(
            f"{text!r} is not a TCP multiaddress; write /ip4/1.2.3.4/tcp/31337/p2p/12D3KooW…"
        )
    kind, host, port_text = parts[1], parts[2], parts[4]
    _check_host(text, kind, host)
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise AddressInvalid(f"{text!r}: the port must be a number from 0 to 65535")
    peer_id = _parse_peer(text, parts[5], parts[6]) if len(parts) == 7 else None
    return TcpAddress(kind, host, int(port_text), peer_id)


def _parse_peer(text: str, kind: str, peer_text: str) -> PeerId:
    if kind not in ("p2p", "ipfs"):
        raise AddressInvalid(f"{text!r}: expected /p2p/<peer id> at its end")
    try:
        return parse_peer_id_untrusted(peer_text)
    except MessageInvalid as exc:
        raise AddressInvalid(f"{text!r}: {exc}") from exc


def parse_address_untrusted(text: str) -> Address:
    """The same for a text from the network; raises MessageInvalid."""
    try:
        return parse_address(text)
    except AddressInvalid as exc:
        raise MessageInvalid(str(exc)) from exc


def _check_host(text: str, kind: str, host: str) -> None:
    if kind not in _HOST_KINDS:
        raise AddressInvalid(f"{text!r}: /{kind} is not one of {', '.join(_HOST_KINDS)}")
    try:
        if kind == "ip4":
            ipaddress.IPv4Address(host)
        elif kind == "ip6":
            ipaddress.IPv6Address(host)
            if "%" in host:
                raise ValueError("a zone means nothing to other machines")
        elif not _HOST_NAME.fullmatch(host):
            raise ValueError("not a host name")
    except ValueError as exc:
        raise AddressInvalid(f"{text!r}: {exc}") from exc


def is_unspecified(address: Address) -> bool:
    """Whether its first hop stands for all interfaces (0.0.0.0 or ::), which nobody can dial."""
    hop = first_hop(address)
    return hop.kind in ("ip4", "ip6") and ipaddress.ip_address(hop.host).is_unspecified


def scope(address: Address) -> str:
    """loopback, private or public, of the first hop; names count as public."""
    hop = first_hop(address)
    if hop.kind not in ("ip4", "ip6"):
        return "public"
    ip = ipaddress.ip_address(hop.host)
    if ip.is_loopback:
        return "loopback"
    if ip.is_private or ip.is_link_local:
        return "private"
    return "public"


_SCOPE_ORDER = {"public": 0, "private": 1, "loopback": 2}


def sort_addresses(addresses: tuple[AnyAddress, ...]) -> tuple[AnyAddress, ...]:
    """Public before private before loopback, then circuits in this order, without repeats.

    Otherwise the given order stays.
    """

    def order(address: AnyAddress) -> tuple[bool, int]:
        return isinstance(address, CircuitAddress), _SCOPE_ORDER[scope(address)]

    return tuple(sorted(dict.fromkeys(addresses), key=order))


def network_of(host: str) -> str:
    """The range that one owner is likely to hold: /24 for IPv4, /48 for IPv6, else the host."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    prefix = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, prefix), strict=False))
