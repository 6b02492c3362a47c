"""Networks of the laboratory, which hosts and routers attach to: the internet, and those inside.

The internet is one namespace that routes to each attached address by itself. What is inside a
router is a bridge: a local network, where all reach each other directly and multicast gets to all.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence

from p2p.testing.netlab import namespaces
from p2p.testing.netlab.links import Emulator, End, Link, Uplink

ATTACHED_MAX = 200
"""What one network has room for; a changed address takes a place, too."""


class Network:
    """Addresses, and where to find who has them."""

    def __init__(
        self, namespace: str, addresses: str, *, bridge: End | None, emulator: Emulator
    ) -> None:
        self.namespace = namespace
        self.addresses = ipaddress.IPv4Network(addresses)
        self.gateway = str(self.addresses[1])
        """The address of the router, or of the internet itself."""
        self.bridge = bridge
        """The device that all links of a local network end in; None for the internet."""
        self._emulator = emulator
        self._numbers = itertools.count(2)
        self._links = itertools.count()

    def attach(self, namespace: str, device: str, link: Link, macs: Sequence[str]) -> Attachment:
        """Lay a link from a namespace to here, and give its device an address and a way out."""
        far = End(self.namespace, f"link{next(self._links)}", macs[1])
        name = f"{self.namespace}/{far.device}"
        uplink = Uplink(name, End(namespace, device, macs[0]), far, link, self._emulator)
        if self.bridge is not None:
            master = f"link set dev {far.device} master {self.bridge.device}"
            namespaces.ip(self.namespace, master)
        return Attachment(self, uplink)

    def next_address(self) -> str:
        """One that nobody here had yet."""
        number = next(self._numbers)
        if number >= ATTACHED_MAX + 2:
            raise ValueError(f"a network of the laboratory has {ATTACHED_MAX} addresses to give")
        return str(self.addresses[number])


class Attachment:
    """The place of a host or router in a network: its link and its address there."""

    def __init__(self, network: Network, uplink: Uplink) -> None:
        self.network = network
        self.uplink = uplink
        self.address = network.next_address()
        self._routed: list[str] = []
        self._settle()

    def route(self, addresses: str) -> None:
        """Send what is for these addresses here, too."""
        self._routed.append(addresses)
        self._settle()

    def change_address(self) -> None:
        """Move to an address that nobody had; nothing reaches the old one any more."""
        old, self.address = self.address, self.network.next_address()
        far = self.uplink.far
        if self.network.bridge is None:
            namespaces.ip(far.namespace, f"route delete {old}/32 dev {far.device}")
        else:
            bridge = self.network.bridge.device
            namespaces.ip(far.namespace, f"neighbour delete {old} dev {bridge}")
        self._settle()

    def _settle(self) -> None:
        """Write the address into both ends.

        The router and what is attached know each other by heart, so that nobody is told that the
        other one is gone.
        """
        near, far, network = self.uplink.near, self.uplink.far, self.network
        bridge = network.bridge
        outward = bridge or far
        length = 32 if bridge is None else network.addresses.prefixlen
        namespaces.ip(
            near.namespace,
            f"address flush dev {near.device}",
            f"address add {self.address}/{length} dev {near.device}",
            f"neighbour replace {network.gateway} lladdr {outward.mac} dev {near.device} "
            "nud permanent",
            f"route replace default via {network.gateway} dev {near.device} onlink",
        )
        there = [
            f"neighbour replace {self.address} lladdr {near.mac} dev {outward.device} nud permanent"
        ]
        if bridge is None:
            there.insert(0, f"route replace {self.address}/32 dev {far.device}")
        there += [
            f"route replace {addresses} via {self.address} dev {outward.device} onlink"
            for addresses in self._routed
        ]
        namespaces.ip(far.namespace, *there)
