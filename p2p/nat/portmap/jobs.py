"""What the keeper wants to be asked of the network (core)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from p2p.nat.portmap.mapping import PortMappingProtocol


@dataclass(frozen=True)
class Network:
    """Where this machine is attached."""

    router_host: str
    """IPv4 address of the default gateway."""
    local_host: str
    """Our own IPv4 address towards it."""


class Ask(Enum):
    """The kinds of questions to a router."""

    SEARCH = "search"
    """Does it speak the protocol? Changes nothing."""
    MAP = "map"
    """Map the port, or renew the mapping."""
    CHECK = "check"
    """Is the mapping still there? Changes nothing."""
    RELEASE = "release"
    """Take the mapping back."""


@dataclass(frozen=True)
class Job:
    """One question to the router."""

    number: int
    ask: Ask
    protocol: PortMappingProtocol
    network: Network
    internal_port: int
    external_port: int
    """The outer port that we would like, or have."""


@dataclass(frozen=True)
class Look:
    """Find out which network this is; the answer goes to on_network()."""
