"""Hearsay: which of the addresses that a peer names we believe, pass on and dial (core).

Whoever is asked for nearer peers can answer with any address at all. Without rules it could send
everybody who asks to the ports of a third party, or to the machines behind our own router. So

1. a peer may name only addresses as far out as its own connection to us: over the internet public
   ones, over a local network private ones, too, and from our own machine all;
2. nothing is dialed that is our own, that nobody can dial, or that leads to many machines; nor
   names of hosts, as whoever owns a domain can have its names mean any machine, ours included:
   a peer that announces one is known by where we see it;
3. of one machine only so many ports are tried on hearsay in ten minutes: the one at which the peer
   that was named has answered is not counted any more.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache

from p2p.address import (
    Address,
    CircuitAddress,
    TcpAddress,
    first_hop,
    is_unspecified,
    network_of,
    parse_address_untrusted,
    scope,
)
from p2p.errors import MessageInvalid

WINDOW_S = 600.0
"""How long an address that was tried in vain counts against its machine."""
PORTS_PER_PUBLIC_HOST_MAX = 8
"""Peers behind one router, or of one owner, are few; a scan wants thousands of ports."""
PORTS_PER_PRIVATE_HOST_MAX = 64
"""A test swarm of dozens on one machine, a third of which was killed, still works."""
PORTS_PER_NETWORK_MAX = 32
"""The same for a public /24 or /48, so that neither its many machines are scanned."""
# Names that resolvers of local networks answer; no public peer goes by them.
_LOCAL_SUFFIXES = (".local", ".internal", ".lan", ".home.arpa", ".localhost")
# What carriers use between their NAT and homes (RFC 6598), and some VPNs among their machines.
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
# Machines and networks remembered.
_HOSTS_MAX = 4_096


class Reach(IntEnum):
    """From how near a peer speaks to us; who is nearer may name all that is farther."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


_REACH_OF_SCOPE = {"public": Reach.PUBLIC, "private": Reach.PRIVATE, "loopback": Reach.LOOPBACK}


def reach_of(address: Address) -> Reach | None:
    """How near one must be to use an address; None for what nobody can dial."""
    hop = first_hop(address)
    if hop.port == 0 or is_unspecified(hop):
        return None
    if _is_name(hop):
        return _reach_of_name(hop.host.lower().rstrip("."))
    ip = _machine(hop.host)
    if ip.is_multicast or ip == ipaddress.IPv4Address("255.255.255.255"):
        return None
    if ip.version == 4 and ip in _SHARED:
        return Reach.PRIVATE
    return _REACH_OF_SCOPE[scope(TcpAddress(f"ip{ip.version}", str(ip), hop.port))]


def _machine(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The machine that the text of an IP address means, however it is spelled."""
    ip = ipaddress.ip_address(host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _is_name(hop: TcpAddress) -> bool:
    return hop.kind not in ("ip4", "ip6")


def _reach_of_name(name: str) -> Reach:
    if name == "localhost" or name.endswith(".localhost"):
        return Reach.LOOPBACK
    return Reach.PRIVATE if "." not in name or name.endswith(_LOCAL_SUFFIXES) else Reach.PUBLIC


@lru_cache(maxsize=65_536)
def reach_of_connection(remote: str, local: TcpAddress | None) -> Reach:
    """From how near the other end of a connection speaks to us; it has no relay in between."""
    if local is not None and scope(local) == "loopback":
        return Reach.LOOPBACK
    try:
        return reach_of(parse_address_untrusted(remote)) or Reach.PUBLIC
    except MessageInvalid:
        # A kind of socket that we do not know tells nothing.
        return Reach.PUBLIC


@lru_cache(maxsize=65_536)
def account_of_untrusted(remote: str) -> str | None:
    """The public address range of a connection's other end, or of its relay.

    None for a private one, and for a name, which tells no range.
    """
    places = _places_of(remote)
    return places[1] if places is not None and places[3] else None


@lru_cache(maxsize=16_384)
def fit_untrusted(addresses: tuple[str, ...], reach: Reach) -> tuple[str, ...]:
    """Of addresses that such a peer names, or is told: those of direct ways that it may know."""
    fit: list[str] = []
    for text in addresses:
        try:
            address = parse_address_untrusted(text)
        except MessageInvalid:
            # Newer peers may know other kinds of addresses.
            continue
        if isinstance(address, CircuitAddress) or _is_name(address):
            continue
        needed = reach_of(address)
        if needed is not None and needed <= reach:
            fit.append(text)
    return tuple(fit)


@lru_cache(maxsize=16_384)
def seen_at_untrusted(addresses: tuple[str, ...], remote: str) -> tuple[str, ...]:
    """What a peer says of where it listens, with the host that we see it at in place of names.

    Args:
        remote: the other end of a direct connection to it.
    """
    if not any(text.startswith("/dns") for text in addresses):
        return addresses
    try:
        seen = first_hop(parse_address_untrusted(remote))
    except MessageInvalid:
        return addresses
    at: dict[str, None] = {}
    for text in addresses:
        try:
            address = parse_address_untrusted(text)
        except MessageInvalid:
            continue
        if isinstance(address, TcpAddress) and _is_name(address) and not _is_name(seen):
            text = str(TcpAddress(seen.kind, seen.host, address.port))
        at[text] = None
    return tuple(at)


@lru_cache(maxsize=16_384)
def _places_of(text: str) -> tuple[str, str, int, bool] | None:
    """Host, range, port and whether it is public; None for a name, or what cannot be dialed."""
    try:
        address = parse_address_untrusted(text)
    except MessageInvalid:
        return None
    hop = first_hop(address)
    if _is_name(hop):
        return None
    host = str(_machine(hop.host))
    return host, network_of(host), hop.port, reach_of(hop) is Reach.PUBLIC


@lru_cache(maxsize=16_384)
def own_of(addresses: tuple[str, ...], remote: str) -> tuple[str, ...]:
    """Of a peer's addresses: those that are its own for all we see at the end of a connection.

    They are at the same host; in a local network also those of the same ports, as one listener on
    all interfaces is the rule there; and on our own machine all that are not public.
    """
    seen = _places_of(remote)
    if seen is None:
        return ()
    host, _, _, seen_public = seen
    places = {text: place for text in addresses if (place := _places_of(text)) is not None}
    here = ipaddress.ip_address(host).is_loopback
    ports = {port for at, _, port, _ in places.values() if at == host}
    return tuple(
        text
        for text, (at, _, port, public) in places.items()
        if at == host or (not (seen_public or public) and (here or port in ports))
    )


class HearsayGuard:
    """Counts what we dial on nothing but hearsay, so that nobody aims us at a third party."""

    def __init__(self) -> None:
        self._tried: OrderedDict[str, dict[tuple[str, int], float]] = OrderedDict()

    def admit(self, addresses: Iterable[str], now_s: float) -> tuple[str, ...]:
        """Of a peer that never answered us: the addresses that may be tried now; they count."""
        admitted: list[str] = []
        for text in addresses:
            places = _places_of(text)
            if places is None:
                continue
            host, network, port, public = places
            limits = {host: PORTS_PER_PUBLIC_HOST_MAX if public else PORTS_PER_PRIVATE_HOST_MAX}
            if public and network != host:
                limits[network] = PORTS_PER_NETWORK_MAX
            if all(self._has_room(p, (host, port), most, now_s) for p, most in limits.items()):
                for place in limits:
                    self._tried.setdefault(place, {}).setdefault((host, port), now_s)
                admitted.append(text)
        while len(self._tried) > _HOSTS_MAX:
            self._tried.popitem(last=False)
        return tuple(admitted)

    def on_answered(self, dialed: str, addresses: Iterable[str] = ()) -> None:
        """The peer that was named has answered where we dialed it: that was no scan.

        Its other addresses may be anybody's, and go on counting. In a local network those of the
        same port do not: one listener on all interfaces is the rule there.
        """
        at = _places_of(dialed)
        if at is None:
            return
        self._forgive(at[0], at[1], at[2])
        if at[3]:
            return
        for text in addresses:
            places = _places_of(text)
            if places is not None and places[2] == at[2] and not places[3]:
                self._forgive(places[0], places[1], places[2])

    def _forgive(self, host: str, network: str, port: int) -> None:
        for place in (host, network):
            tried = self._tried.get(place)
            if tried is not None and tried.pop((host, port), None) is not None and not tried:
                del self._tried[place]

    def _has_room(self, place: str, target: tuple[str, int], most: int, now_s: float) -> bool:
        tried = self._tried.get(place)
        if tried is None:
            return True
        if len(tried) >= most:
            for old in [one for one, at_s in tried.items() if at_s <= now_s - WINDOW_S]:
                del tried[old]
        return target in tried or len(tried) < most
