"""When each address of a peer is dialed, and how long it may take (core).

    address                                    begins                        may take
    in a network that we are on                at once                       the usual time
    this machine, or through a relay           at once                       the usual time
    public                                     at once; 0.1 s later when     the usual time
                                               there is one as above
    private, in a network that we are not on   1 s later, or at once when    3 s
                                               there is nothing else

Peers behind one router thus talk without it. A private address of a foreign network mostly leads
to a stranger or to nobody; yet companies and VPNs route between such networks, so it is tried.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.address import Address, CircuitAddress, TcpAddress, scope
from p2p.discovery.networks import Interface, interface_towards

LAN_HEAD_START_S = 0.1
"""More than a round trip in any house."""
FOREIGN_DELAY_S = 1.0
FOREIGN_TIMEOUT_S = 3.0
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")


@dataclass(frozen=True)
class Start:
    """When to begin with an address, and how long it may take from then."""

    delay_s: float = 0.0
    timeout_s_max: float = math.inf


def start_of(
    address: Address, addresses: Iterable[Address], interfaces: tuple[Interface, ...]
) -> Start:
    """How to go about one of a peer's addresses; without interfaces all begin at once."""
    if not interfaces or isinstance(address, CircuitAddress):
        return Start()
    others = [one for one in addresses if one != address and not isinstance(one, CircuitAddress)]
    match _kind(address, interfaces):
        case "foreign":
            return Start(FOREIGN_DELAY_S if others else 0.0, FOREIGN_TIMEOUT_S)
        case "public" if any(_kind(one, interfaces) == "near" for one in others):
            return Start(LAN_HEAD_START_S)
    return Start()


def _kind(address: TcpAddress, interfaces: tuple[Interface, ...]) -> str:
    """near, here, public or foreign."""
    match scope(address):
        case "loopback":
            return "here"
        case _ if interface_towards(address.host, interfaces) is not None:
            return "near"
        case "private":
            return "foreign"
    return "foreign" if address.kind == "ip4" and _is_shared(address.host) else "public"


def _is_shared(host: str) -> bool:
    """Whether the address is of those that carriers use between their NAT and homes (RFC 6598)."""
    return ipaddress.IPv4Address(host) in _SHARED
