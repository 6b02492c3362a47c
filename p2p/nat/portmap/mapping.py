"""PortMapping: a port of the router's that leads to us, as reports show it."""

from __future__ import annotations

from typing import Literal

from p2p.nat.report import PortMapping

PortMappingProtocol = Literal["pcp", "nat-pmp", "upnp"]

__all__ = ["PortMapping", "PortMappingProtocol"]
