"""Classification: what stands between us and the internet, from what is known of both ends (core).

our interface has the address that the internet sees      nothing, or a firewall if nobody
                                                          gets through
it has an address of carriers' shared range (RFC 6598)    carrier-grade NAT
the router's outside address is of that range             carrier-grade NAT
the router's outside address is private, or another       double NAT
than the internet sees; or the router says that it has
none, though the internet sees us
anything else that the internet sees                      NAT
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from p2p.nat.report import Behind, Reachability

_SHARED = ipaddress.ip_network("100.64.0.0/10")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one IP family."""

    local_hosts: tuple[str, ...]
    """The addresses of our interfaces, without loopback."""
    seen_host: str | None
    """What the internet sees."""
    router_host: str | None
    """The outside address of the router, as it says itself when asked for a port."""
    router_has_no_host: bool = False
    """Whether it says that it has none to map ports of, as routers behind another one do."""
    reachability: Reachability
    """What dial-back says of our addresses in this family."""


def classify(facts: Facts) -> Behind:
    """What stands between us and the internet, in one family."""
    own_global = [host for host in facts.local_hosts if ipaddress.ip_address(host).is_global]
    is_seen_as_we_are = facts.seen_host in facts.local_hosts or (
        facts.seen_host is None and bool(own_global) and facts.router_host is None
    )
    if is_seen_as_we_are:
        verdicts: dict[Reachability, Behind] = {"public": "nothing", "private": "firewall"}
        return verdicts.get(facts.reachability, "unknown")
    if any(_is_shared(host) for host in facts.local_hosts) and not own_global:
        return "carrier-grade-nat"
    if facts.router_host is not None:
        if _is_shared(facts.router_host):
            return "carrier-grade-nat"
        is_private = not ipaddress.ip_address(facts.router_host).is_global
        if is_private or facts.seen_host not in (None, facts.router_host):
            return "double-nat"
        return "nat"
    if facts.seen_host is None:
        return "unknown"
    return "double-nat" if facts.router_has_no_host else "nat"


def _is_shared(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return ip.version == 4 and ip in _SHARED
