"""The networks that this machine is on, and which addresses lie in them (core)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interface:
    """One address of one of this machine's interfaces, with the network around it."""

    name: str
    host: str
    prefix: int
    """How many leading bits all addresses of the network share."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is in its network."""
        return ipaddress.ip_address(self.host).is_loopback

    def has(self, host: str) -> bool:
        """Whether the host, an IP address, is a neighbour on this interface's network."""
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        network = ipaddress.ip_network((self.host, self.prefix), strict=False)
        # A network of one address, as tunnels and some clouds have, has no neighbours.
        return ip in network and (self.prefix < network.max_prefixlen or host == self.host)


def interface_towards(host: str, interfaces: Iterable[Interface]) -> Interface | None:
    """The interface on whose network the host is, the narrowest first; None if on none."""
    near = [interface for interface in interfaces if interface.has(host)]
    return max(near, key=lambda interface: interface.prefix, default=None)
