"""A laboratory of real networks: hosts behind routers on this machine, and links that fail."""

from p2p.testing.netlab.hosts import Host
from p2p.testing.netlab.lab import Netlab, Router, Situation, open_netlab
from p2p.testing.netlab.links import Link, Uplink
from p2p.testing.netlab.namespaces import NetlabUnavailable
from p2p.testing.netlab.nat import NAT_KINDS, NatKind
from p2p.testing.netlab.plan import HostPlan, InternetPlan, RouterPlan, build, read_plan, way_out

__all__ = [
    "NAT_KINDS",
    "Host",
    "HostPlan",
    "InternetPlan",
    "Link",
    "NatKind",
    "Netlab",
    "NetlabUnavailable",
    "Router",
    "RouterPlan",
    "Situation",
    "Uplink",
    "build",
    "open_netlab",
    "read_plan",
    "way_out",
]
