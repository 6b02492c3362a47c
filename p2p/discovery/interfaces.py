"""The interfaces of this machine as they are now."""

from __future__ import annotations

import ifaddr

from p2p.discovery.networks import Interface


def interfaces() -> tuple[Interface, ...]:
    """Each address of each interface, in order; those that need a zone are left out."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if not host.startswith("fe80"):
                found.add(Interface(adapter.nice_name, host, ip.network_prefix))
    return tuple(sorted(found, key=lambda one: (one.name, one.host, one.prefix)))
