"""What a node knows of its own place in the network."""

from p2p.nat.report import (
    AddressReport,
    Behind,
    Mapping,
    NetReport,
    PortMapping,
    Reachability,
    RelayReport,
)

__all__ = [
    "AddressReport",
    "Behind",
    "Mapping",
    "NetReport",
    "PortMapping",
    "Reachability",
    "RelayReport",
]
