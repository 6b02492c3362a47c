"""Netlab: an internet of hosts and routers on this machine, real TCP in it, and faults at will.

    with open_netlab() as lab:
        boot = lab.add_host("boot")                               # 5.6.7.2, public
        slow = Link(up_mbit_per_s=20, down_mbit_per_s=100, delay_ms=25)
        home = lab.add_router("home", nat="port-restricted", link=slow)
        alice, bob = home.add_host("alice"), home.add_host("bob")  # 192.168.1.2 and .3
        isp = lab.add_router("isp", nat="carrier-grade")
        carol = isp.add_router("flat").add_host("carol")           # behind two NATs
        alice.start([sys.executable, "-m", "my_program", boot.address])
        home.forget_mappings()
        isp.uplink.cut()

Each host and router is a network namespace. Addresses are of ranges that count as public, since
NAT software and peers treat others differently, and stay inside: 5.6.7.0/24 for what is attached
to the internet itself, 5.7.X.0/24 inside routers without NAT, 192.168.X.0/24 inside those with it
(the same one in each home, as in life) and 100.64.0.0/10 inside a carrier's.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from p2p.testing.netlab import namespaces
from p2p.testing.netlab.gateway import start_gateway
from p2p.testing.netlab.hosts import Host
from p2p.testing.netlab.links import Emulator, End, Link, Uplink
from p2p.testing.netlab.nat import LAN, WAN, NatKind, Policy, rules
from p2p.testing.netlab.networks import Attachment, Network

INTERNET = "internet"
"""The name that the middle of the network has among the namespaces; no host may have it."""
_INTERNET_ADDRESSES = "5.6.7.0/24"
_CARRIER_GRADE_ADDRESSES = "100.64.0.0/10"
_PLAIN = Link()

Situation = Literal["public"] | NatKind
"""Where a host may stand: in the internet itself, or behind a router of a kind."""


@contextmanager
def open_netlab(*, seed: int = 0) -> Iterator[Netlab]:
    """A network of namespaces that is gone when the block ends, and every process in it.

    What runs left behind that were killed goes first. All of it is synchronous: it is for
    programs that drive other processes. Several may be open on a machine.

    Args:
        seed: of the links' chance, which packets are lost and how delays vary.

    Raises:
        NetlabUnavailable: there is no root, a program is missing, or the machine forbids it.
    """
    namespaces.require()
    namespaces.sweep()
    prefix = namespaces.new_prefix()
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        lab = Netlab(prefix, Path(folder), seed)
        try:
            yield lab
        finally:
            lab.close()


class Router:
    """Stands between the network inside and the one that it is attached to."""

    def __init__(
        self, lab: Netlab, name: str, namespace: str, outside: Attachment, inside: Network,
        policy: Policy, parent: Router | None,
    ) -> None:  # fmt: skip
        self.name = name
        self.namespace = namespace
        """The name of its network namespace, for commands of your own."""
        self.policy = policy
        self.parent = parent
        """The router that this one is behind; None for one in the internet."""
        self.inside = inside
        """The network of those behind it."""
        self._lab = lab
        self._attachment = outside
        self._first: Host | Router | None = None
        self._forwards: dict[int, Host | Router] = {}
        self._gateway: subprocess.Popen[bytes] | None = None
        self._write_rules()
        if policy.nat == "upnp":
            self._gateway = start_gateway(namespace, lab.new_folder(name))

    @property
    def address(self) -> str:
        """Its address outside."""
        return self._attachment.address

    @property
    def uplink(self) -> Uplink:
        """Its link to the outside, to cut, heal and change."""
        return self._attachment.uplink

    def add_host(self, name: str, link: Link = _PLAIN) -> Host:
        """A new host behind this router; its name is of small letters, digits and dashes."""
        host = self._lab.make_host(name, link, self)
        self._note(host)
        return host

    def add_router(
        self,
        name: str,
        *,
        nat: NatKind = "port-restricted",
        link: Link = _PLAIN,
        addresses: str | None = None,
        outbound_ports: tuple[int, ...] = (),
        blocks_udp: bool = False,
    ) -> Router:
        """A new router behind this one; the arguments are those of Netlab.add_router."""
        policy = Policy(nat=nat, outbound_ports=outbound_ports, blocks_udp=blocks_udp)
        router = self._lab.make_router(name, link, self, policy, addresses)
        self._note(router)
        return router

    def forward_port(self, port: int, to: Host | Router) -> None:
        """Let everybody come in at a port, to the same port of one inside, over TCP and UDP."""
        self._forwards[port] = to
        self._write_rules()

    def forget_mappings(self) -> None:
        """Lose the memory of all connections, as a restart does: they are black holes now.

        What is sent inside makes new mappings only where a connection is new, too.
        """
        namespaces.run("ip", "netns", "exec", self.namespace, "conntrack", "-F")

    def set_timeouts(self, *, tcp_s: int = 432_000, udp_s: int = 120) -> None:
        """How long a mapping lasts on which nothing is sent; by default Linux's own times."""
        settings = {
            "nf_conntrack_tcp_timeout_established": tcp_s,
            "nf_conntrack_udp_timeout": udp_s,
            "nf_conntrack_udp_timeout_stream": udp_s,
        }
        _set(self.namespace, {f"netfilter/{name}": value for name, value in settings.items()})

    def change_address(self) -> str:
        """Take a new address outside, as from a provider each night; returns it.

        All mappings are lost with the old one.
        """
        self._attachment.change_address()
        self.forget_mappings()
        if self.parent is not None:
            self.parent.on_address()
        return self.address

    def on_address(self) -> None:
        """One inside has another address: what is for it goes there."""
        if self._forwards or self.policy.nat == "full-cone":
            self._write_rules()

    def close(self) -> None:
        """End its daemon."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()

    def _note(self, attached: Host | Router) -> None:
        if self._first is None:
            self._first = attached
            self.on_address()

    def _write_rules(self) -> None:
        first = None if self._first is None else self._first.address
        forwards = {port: to.address for port, to in self._forwards.items()}
        text = rules(self.policy, open_to=first, forwards=forwards)
        restore = ("ip", "netns", "exec", self.namespace, "iptables-legacy-restore")
        namespaces.run(*restore, stdin=text)


class Netlab:
    """An internet, what is attached to it, and what is behind that."""

    def __init__(self, prefix: str, folder: Path, seed: int) -> None:
        self.hosts: dict[str, Host] = {}
        """All hosts by name, wherever they are."""
        self.routers: dict[str, Router] = {}
        """All routers by name, wherever they are."""
        self._prefix = prefix
        self._folder = folder
        self._macs = itertools.count(1)
        self._public_inside = itertools.count(1)
        namespace = prefix + INTERNET
        self._emulator = Emulator(namespace, seed)
        self._internet = Network(
            namespace, _INTERNET_ADDRESSES, bridge=None, emulator=self._emulator
        )
        namespaces.add(namespace)
        namespaces.ip(namespace, f"address add {self._internet.gateway}/32 dev lo")
        _set(namespace, {"ipv4/ip_forward": 1})

    def add_host(self, name: str, link: Link = _PLAIN) -> Host:
        """A new public host; its name is of small letters, digits and dashes."""
        return self.make_host(name, link, None)

    def add_router(
        self,
        name: str,
        *,
        nat: NatKind = "port-restricted",
        link: Link = _PLAIN,
        addresses: str | None = None,
        outbound_ports: tuple[int, ...] = (),
        blocks_udp: bool = False,
    ) -> Router:
        """A new router in the internet; hosts and routers are added behind it.

        Args:
            nat: what it does to connections, as `nat.py` lists the kinds.
            addresses: of the network inside, as 192.168.7.0/24; by default a usual one.
            outbound_ports: the only ports outside to which TCP gets through, and no UDP then, as
                in an office; empty for all.
            blocks_udp: whether UDP does not get out.
        """
        policy = Policy(nat=nat, outbound_ports=outbound_ports, blocks_udp=blocks_udp)
        return self.make_router(name, link, None, policy, addresses)

    def add_host_in(self, situation: Situation, name: str, link: Link = _PLAIN) -> Host:
        """A new host, and what stands between it and the internet.

        The router is called NAME-router. "carrier-grade" makes two, the carrier's and
        NAME-home of the kind port-restricted behind it, where the host is. The link is the
        outermost one.
        """
        if situation == "public":
            return self.add_host(name, link)
        router = self.add_router(f"{name}-router", nat=situation, link=link)
        if situation == "carrier-grade":
            router = router.add_router(f"{name}-home")
        return router.add_host(name)

    def make_host(self, name: str, link: Link, router: Router | None) -> Host:
        """A new host behind a router or in the internet."""
        namespace = self._new_namespace(name)
        network = self._internet if router is None else router.inside
        attachment = network.attach(namespace, "eth0", link, self._new_macs())
        on_address = None if router is None else router.on_address
        self.hosts[name] = Host(name, namespace, attachment, on_address)
        return self.hosts[name]

    def make_router(
        self, name: str, link: Link, parent: Router | None, policy: Policy, addresses: str | None
    ) -> Router:
        """A new router behind another one or in the internet."""
        addresses = addresses or self._usual_addresses(policy, parent)
        _check_addresses(addresses, policy, parent)
        namespace = self._new_namespace(name)
        mac, *macs = self._new_macs(3)
        outside = (self._internet if parent is None else parent.inside).attach(
            namespace, WAN, link, macs
        )
        bridge = End(namespace, LAN, mac)
        inside = Network(namespace, addresses, bridge=bridge, emulator=self._emulator)
        namespaces.ip(
            namespace,
            # Without a querier among us a bridge that snoops would keep multicast from some.
            f"link add name {LAN} address {mac} type bridge mcast_snooping 0 forward_delay 0",
            f"address add {inside.gateway}/{inside.addresses.prefixlen} dev {LAN}",
            f"link set dev {LAN} up",
        )
        if policy.has_public_inside:
            outside.route(addresses)
        router = Router(self, name, namespace, outside, inside, policy, parent)
        # After the rules, which load connection tracking: a flow in the middle that the router
        # does not know is none of its own.
        _set(namespace, {"ipv4/ip_forward": 1, "netfilter/nf_conntrack_tcp_loose": 0})
        # Where the kernel has it, what stays inside would be routed by the rules, too.
        _set(namespace, {"bridge/bridge-nf-call-iptables": 0}, only_if_there=True)
        self.routers[name] = router
        return router

    def new_folder(self, name: str) -> Path:
        """An empty folder that goes with the laboratory."""
        folder = self._folder / name
        folder.mkdir()
        return folder

    def close(self) -> None:
        """Kill every process of the laboratory and remove its namespaces."""
        for host in self.hosts.values():
            host.stop_processes()
        for router in self.routers.values():
            router.close()
        self._emulator.close()
        for name in namespaces.names(self._prefix):
            namespaces.remove(name)

    def _new_namespace(self, name: str) -> str:
        taken = {*self.hosts, *self.routers, INTERNET}
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name) or name in taken:
            raise ValueError(f"{name!r} is no new name for a host or router")
        namespaces.add(self._prefix + name)
        return self._prefix + name

    def _new_macs(self, count: int = 2) -> list[str]:
        # The first byte says that they are local; the rest counts within this laboratory.
        numbers = itertools.islice(self._macs, count)
        return [f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}" for number in numbers]

    def _usual_addresses(self, policy: Policy, parent: Router | None) -> str:
        if policy.has_public_inside:
            return f"5.7.{next(self._public_inside)}.0/24"
        if policy.nat == "carrier-grade":
            return _CARRIER_GRADE_ADDRESSES
        depth = 1
        while parent is not None:
            depth += parent.policy.nat != "carrier-grade"
            parent = parent.parent
        return f"192.168.{depth}.0/24"


def _check_addresses(addresses: str, policy: Policy, parent: Router | None) -> None:
    if policy.has_public_inside and parent is not None:
        raise ValueError("a router without NAT has public addresses inside; it must be in the "
                         "internet itself")  # fmt: skip
    inside = ipaddress.IPv4Network(addresses)
    while parent is not None:
        if inside.overlaps(parent.inside.addresses):
            raise ValueError(f"{addresses} is in use on the way to the internet; give others")
        parent = parent.parent


def _set(namespace: str, settings: Mapping[str, int], *, only_if_there: bool = False) -> None:
    """Write settings of a namespace's network into the kernel."""
    lines = [f"echo {value} > /proc/sys/net/{name}" for name, value in settings.items()]
    if only_if_there:
        lines = [f"test ! -e {line.split(' > ')[1]} || {line}" for line in lines]
    namespaces.run("ip", "netns", "exec", namespace, "sh", "-ec", "\n".join(lines))
