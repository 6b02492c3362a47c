"""Asks the router to let outsiders in: PCP, NAT-PMP and UPnP IGD."""

from p2p.nat.portmap.mapper import PortMapper, open_port_mapper
from p2p.nat.portmap.mapping import PortMapping

__all__ = ["PortMapper", "PortMapping", "open_port_mapper"]
