"""Multiaddresses: parse, check, print, sort, and tell private from public."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from p2p.errors import AddressInvalid, MessageInvalid
from p2p.identity import parse_peer_id_untrusted
from p2p.peer_id import PeerId

_TEXT_MAX = 256
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


# Peers tell each other the same addresses again and again; errors are not kept.
@lru_cache(maxsize=4096)
def parse_address(text: str) -> TcpAddress:
    """Read a multiaddress such as /ip4/1.2.3.4/tcp/31337/p2p/12D3KooW….

    Raises:
        AddressInvalid: not a TCP multiaddress; the text says what is wrong with it.
    """
    if len(text) > _TEXT_MAX:
        raise AddressInvalid(f"the address is longer than {_TEXT_MAX} characters")
    parts = text.strip().split("/")
    if parts[0] != "" or len(parts) not in (5, 7) or parts[3] != "tcp":
        raise AddressInvalid(
            f"{text!r} is not a TCP multiaddress; write /ip4/1.2.3.4/tcp/31337/p2p/12D3KooW…"
        )
    kind, host, port_text = parts[1], parts[2], parts[4]
    _check_host(text, kind, host)
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise AddressInvalid(f"{text!r}: the port must be a number from 0 to 65535")
    peer_id = None
    if len(parts) == 7:
        if parts[5] not in ("p2p", "ipfs"):
            raise AddressInvalid(f"{text!r}: expected /p2p/<peer id> after the port")
        try:
            peer_id = parse_peer_id_untrusted(parts[6])
        except MessageInvalid as exc:
            raise AddressInvalid(f"{text!r}: {exc}") from exc
    return TcpAddress(kind, host, int(port_text), peer_id)


def parse_address_untrusted(text: str) -> TcpAddress:
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


def is_unspecified(address: TcpAddress) -> bool:
    """Whether the address stands for all interfaces (0.0.0.0 or ::), which nobody can dial."""
    return address.kind in ("ip4", "ip6") and ipaddress.ip_address(address.host).is_unspecified


def scope(address: TcpAddress) -> str:
    """loopback, private or public; names count as public."""
    if address.kind not in ("ip4", "ip6"):
        return "public"
    ip = ipaddress.ip_address(address.host)
    if ip.is_loopback:
        return "loopback"
    if ip.is_private or ip.is_link_local:
        return "private"
    return "public"


_SCOPE_ORDER = {"public": 0, "private": 1, "loopback": 2}


def sort_addresses(addresses: tuple[TcpAddress, ...]) -> tuple[TcpAddress, ...]:
    """Public before private before loopback, otherwise in the given order, without repeats."""
    unique = dict.fromkeys(addresses)
    return tuple(sorted(unique, key=lambda address: _SCOPE_ORDER[scope(address)]))


def network_of(host: str) -> str:
    """The range that one owner is likely to hold: /24 for IPv4, /48 for IPv6, else the host."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    prefix = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, prefix), strict=False))
