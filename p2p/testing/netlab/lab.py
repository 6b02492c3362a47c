"""Netlab: hosts around a router, real TCP between them, and links that are cut, healed and slowed.

    host 5.6.7.2 ── link ──┐
    host 5.6.7.3 ── link ── router 5.6.7.1
    host 5.6.7.4 ── link ──┘

A link is cut in the router, which drops what comes and goes without a word. The host's interface
stays up and its neighbour goes on answering, so no socket learns of it: a black hole, as when a
cable is pulled far away. The addresses are of a range that counts as public, and stay inside.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from p2p.testing.netlab import namespaces

HOSTS_MAX = 200
_ROUTER = "router"
_ROUTER_ADDRESS = "5.6.7.1"
# Before the main table (32766) and after the local one (0): the router itself stays a neighbour.
_CUT_PRIORITY = "100"
_BURST_BYTES_MIN = 16_384
_BURSTS_PER_S = 250
_QUEUE_S = 0.05

_numbers = itertools.count()


@contextmanager
def open_netlab() -> Iterator[Netlab]:
    """A network of namespaces that is gone when the block ends, and every process in it.

    What runs left behind that were killed goes first. All of it is synchronous: it is for
    programs that drive other processes.

    Raises:
        NetlabUnavailable: there is no root, no iproute2, or the machine forbids it.
    """
    namespaces.require()
    namespaces.sweep()
    lab = Netlab(f"{namespaces.owner_prefix()}{next(_numbers)}-")
    try:
        lab.add_router()
        yield lab
    finally:
        lab.close()


class Host:
    """A machine of the laboratory: one namespace with one interface and one address."""

    def __init__(self, name: str, namespace: str, router: str, number: int) -> None:
        self.name = name
        self.address = f"5.6.7.{number}"
        """Where the other hosts reach it, as an IPv4 address."""
        self._namespace = namespace
        self._router = router
        self.router_end = f"host{number}"
        """The name of the router's interface to it, for rules of your own."""
        self._processes: list[subprocess.Popen[str]] = []
        self.is_cut = False

    def _router_ip(self, *arguments: str) -> None:
        namespaces.run("ip", "-n", self._router, *arguments)

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program on the host, with pipes of text to its stdin and from its stdout."""
        inside = ["ip", "netns", "exec", self._namespace, *arguments]
        process = subprocess.Popen(
            inside,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def cut(self) -> None:
        """From now on nothing gets through in either direction, and nobody is told."""
        if not self.is_cut:
            for match in self._matches():
                self._router_ip("rule", "add", "priority", _CUT_PRIORITY, *match, "blackhole")
            self.is_cut = True

    def heal(self) -> None:
        """From now on everything gets through; what was dropped stays lost."""
        if self.is_cut:
            for match in self._matches():
                self._router_ip("rule", "delete", "priority", _CUT_PRIORITY, *match, "blackhole")
            self.is_cut = False

    def _matches(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("iif", self.router_end), ("to", self.address)

    def limit_rate(
        self,
        *,
        upload_bytes_per_s: int | None = None,
        download_bytes_per_s: int | None = None,
    ) -> None:
        """Limit what the link carries each way, with 50 ms worth of queue; None lifts the limit."""
        _limit(self._namespace, "eth0", upload_bytes_per_s)
        _limit(self._router, self.router_end, download_bytes_per_s)

    def stop_processes(self) -> None:
        """Kill what was started on the host and is still there."""
        for process in self._processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close_quietly(pipe)
            process.wait()
        self._processes.clear()


class Netlab:
    """Hosts that reach each other through one router."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._hosts: dict[str, Host] = {}

    def add_router(self) -> None:
        """The middle of the network, where links are cut."""
        router = self._prefix + _ROUTER
        namespaces.add(router)
        namespaces.run("ip", "-n", router, "address", "add", f"{_ROUTER_ADDRESS}/32", "dev", "lo")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        namespaces.run("ip", "netns", "exec", router, "sh", "-c", forward)

    def add_host(self, name: str) -> Host:
        """A new host that reaches all others; its name is of small letters, digits and dashes."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name) or name in {*self._hosts, _ROUTER}:
            raise ValueError(f"{name!r} is no new name for a host")
        if len(self._hosts) == HOSTS_MAX:
            raise ValueError(f"a laboratory has room for {HOSTS_MAX} hosts")
        namespace = self._prefix + name
        namespaces.add(namespace)
        host = Host(name, namespace, self._prefix + _ROUTER, number=len(self._hosts) + 2)
        self._hosts[name] = host
        _lay_link(host, namespace, self._prefix + _ROUTER)
        return host

    def close(self) -> None:
        """Kill every process of the laboratory and remove its namespaces."""
        for host in self._hosts.values():
            host.stop_processes()
        for name in namespaces.names(self._prefix):
            namespaces.remove(name)


def _lay_link(host: Host, namespace: str, router: str) -> None:
    near, far, address = "eth0", host.router_end, f"{host.address}/32"
    namespaces.run(
        "ip", "link", "add", "name", near, "netns", namespace, "type", "veth",
        "peer", "name", far, "netns", router,
    )  # fmt: skip
    for here, arguments in (
        (namespace, f"address add {address} dev {near}"),
        (namespace, f"link set dev {near} up"),
        (router, f"link set dev {far} up"),
        (router, f"route add {address} dev {far}"),
        (namespace, f"route add default via {_ROUTER_ADDRESS} dev {near} onlink"),
    ):
        namespaces.run("ip", "-n", here, *arguments.split())


def _limit(namespace: str, device: str, bytes_per_s: int | None) -> None:
    if bytes_per_s is None:
        namespaces.run("tc", "-n", namespace, "qdisc", "delete", "dev", device, "root", check=False)
        return
    if bytes_per_s < 1:
        raise ValueError("a rate must be positive; cut() lets nothing through")
    burst = max(_BURST_BYTES_MIN, bytes_per_s // _BURSTS_PER_S)
    queue = burst + int(bytes_per_s * _QUEUE_S)
    # tc writes bytes per second as bps.
    limits = ("rate", f"{bytes_per_s}bps", "burst", str(burst), "limit", str(queue))
    where = ("qdisc", "replace", "dev", device, "root", "tbf")
    namespaces.run("tc", "-n", namespace, *where, *limits)


def _close_quietly(pipe: IO[str]) -> None:
    """Close a pipe whose reader may be gone with bytes still unwritten."""
    try:
        pipe.close()
    except BrokenPipeError:
        return
