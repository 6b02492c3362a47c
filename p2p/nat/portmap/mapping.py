"""PortMapping: a port of the router's that leads to us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PortMappingProtocol = Literal["pcp", "nat-pmp", "upnp"]


@dataclass(frozen=True)
class PortMapping:
    """A TCP port of the router's outer address that leads to a port of this machine."""

    protocol: PortMappingProtocol
    external: str
    """The outer address, as a multiaddress without a peer id: /ip4/5.6.7.8/tcp/31337."""
    internal_port: int
    expires_in_s: float
    """How long the router keeps it if it is not renewed; it is renewed long before."""
    useless_because: str | None
    """Why outsiders do not get through all the same, in one plain sentence; None if they may."""
