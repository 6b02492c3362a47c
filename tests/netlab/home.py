"""A home behind a router that maps ports, made of namespaces: miniupnpd in the router.

    inside 192.168.7.20 ──┐
                     router 192.168.7.1 │ WAN ── outside 5.6.7.2
    neighbour 192.168.7.21┘

The router's outer address is 5.6.7.10, or one of another network: then a carrier's NAT, which maps
nothing, stands between it and the outside.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from p2p.testing.netlab import NetlabUnavailable, namespaces
from tests.processes.command import ENVIRONMENT, ROOT

INSIDE, NEIGHBOUR, ROUTER, OUTSIDE = "192.168.7.20", "192.168.7.21", "192.168.7.1", "5.6.7.2"
WAN = "5.6.7.10"
_VERSIONS = {"nat-pmp": 0, "pcp": 2}
_numbers = itertools.count()


def require() -> None:
    """Raises NetlabUnavailable where there can be no such home."""
    namespaces.require()
    for command in ("miniupnpd", "iptables-legacy"):
        if which(command) is None:
            raise NetlabUnavailable(
                f"there is no command {command}; install miniupnpd-iptables and iptables"
            )


def _match(version: int) -> str:
    """A question in this version: the first byte behind the headers of IP and UDP."""
    return f"-p udp --dport 5351 -m u32 --u32 28>>24={version}"


class Home:
    """Four or five namespaces, and what runs in them."""

    def __init__(self, folder: Path, speaks: frozenset[str], wan: str, says: str | None) -> None:
        self._prefix = f"{namespaces.owner_prefix()}home{next(_numbers)}-"
        self._folder = folder
        self._speaks = speaks
        self.wan = wan
        self._says = says
        self._processes: list[subprocess.Popen[str]] = []
        self._daemon: subprocess.Popen[str] | None = None

    def build(self) -> None:
        """Make the namespaces, and start the router."""
        for name in ("inside", "neighbour", "router", "outside"):
            namespaces.add(self._prefix + name)
        self._ip("router", "link add name lan type bridge")
        self._ip("router", f"address add {ROUTER}/24 dev lan")
        self._ip("router", "link set dev lan up")
        for name, address in (("inside", INSIDE), ("neighbour", NEIGHBOUR)):
            self._link(name, "eth0", "router", name)
            self._ip("router", f"link set dev {name} master lan")
            self._ip(name, f"address add {address}/24 dev eth0")
            self._ip(name, f"route add default via {ROUTER}")
        far, far_end, gateway = ("outside", "eth0", OUTSIDE)
        if self.wan != WAN:
            far, far_end, gateway = ("carrier", "lan", self._carrier)
            namespaces.add(self._prefix + "carrier")
            self._link("carrier", "wan", "outside", "eth0")
            self._ip("carrier", f"address add {WAN}/24 dev wan")
        self._link("router", "wan", far, far_end)
        self._ip("router", f"address add {self.wan}/24 dev wan")
        self._ip("router", f"route add default via {gateway}")
        if self.wan != WAN:
            self._ip("carrier", f"address add {self._carrier}/24 dev lan")
            self._masquerade("carrier")
        self._ip("outside", f"address add {OUTSIDE}/24 dev eth0")
        self._masquerade("router")
        self.start_router()

    @property
    def _carrier(self) -> str:
        return self.wan.rpartition(".")[0] + ".1"

    def start_router(self) -> None:
        """Start the daemon that maps ports, with an empty table; nothing to start if it is mute."""
        self._iptables("router", "-t nat -N MINIUPNPD", "-t nat -N MINIUPNPD-POSTROUTING")
        self._iptables("router", "-t filter -N MINIUPNPD")
        self._iptables("router", "-t nat -A PREROUTING -i wan -j MINIUPNPD")
        self._iptables("router", "-I FORWARD -i wan ! -o wan -j MINIUPNPD")
        for protocol, version in _VERSIONS.items():
            if protocol not in self._speaks:
                self._iptables("router", f"-I INPUT {_match(version)} -j DROP")
        if not self._speaks:
            return
        natpmp = "yes" if self._speaks & _VERSIONS.keys() else "no"
        lines = [
            "ext_ifname=wan",
            "listening_ip=lan",
            "port=5000",
            f"enable_natpmp={natpmp}",
            f"enable_upnp={'yes' if 'upnp' in self._speaks else 'no'}",
            "secure_mode=no",
            "system_uptime=no",
            "uuid=6d616e79-6861-6e64-7300-000000000001",
            f"lease_file={self._folder / 'leases'}",
            *([f"ext_ip={self._says}"] if self._says else []),
            "allow 1024-65535 0.0.0.0/0 1024-65535",
        ]
        (self._folder / "leases").unlink(missing_ok=True)
        (self._folder / "miniupnpd.conf").write_text("\n".join(lines) + "\n", "ascii")
        self._daemon = self._start(
            "router",
            ["miniupnpd", "-d", "-f", self._folder / "miniupnpd.conf", "-P", self._folder / "pid"],
            stderr=self._folder / "miniupnpd.log",
        )

    def stop_router(self) -> None:
        """Stop the daemon and forget every mapping; the router goes on passing what is inside."""
        if self._daemon is not None:
            for pid in namespaces.run("ip", "netns", "pids", self._prefix + "router").split():
                namespaces.run("kill", "-9", pid, check=False)
            self._daemon.wait()
            self._daemon = None
        self._iptables("router", "-t nat -F PREROUTING", "-t nat -F MINIUPNPD")
        self._iptables("router", "-t nat -F MINIUPNPD-POSTROUTING", "-t nat -X")
        self._iptables("router", "-F", "-X")
        self._firewall("router")

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program of the tests on one of the machines, with pipes of text."""
        return self._start(name, [sys.executable, "-m", module, *arguments])

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line that runs another one on one of the machines."""
        return ["ip", "netns", "exec", self._prefix + name, *arguments]

    def open_firewall(self) -> None:
        """Let the router itself hear every version of the protocols over UDP."""
        for protocol, version in _VERSIONS.items():
            if protocol not in self._speaks:
                self._iptables("router", f"-D INPUT {_match(version)} -j DROP")

    def mappings(self) -> str:
        """The router's own list of mapped ports."""
        return self._iptables("router", "-t nat -S MINIUPNPD")

    def close(self) -> None:
        """Kill everything in the namespaces and remove them."""
        for name in namespaces.names(self._prefix):
            namespaces.remove(name)
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(
        self, name: str, command: Sequence[str | Path], stderr: Path | None = None
    ) -> subprocess.Popen[str]:
        with (stderr or Path("/dev/stderr")).open("a") as errors:
            process = subprocess.Popen(
                self.command(name, *map(str, command)),
                cwd=ROOT,
                env=None if stderr else ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors if stderr else None,
                text=True,
            )
        self._processes.append(process)
        return process

    def _ip(self, name: str, arguments: str) -> None:
        namespaces.run("ip", "-n", self._prefix + name, *arguments.split())

    def _iptables(self, name: str, *rules: str) -> str:
        said = ""
        for rule in rules:
            command = ("iptables-legacy", "-w", *rule.split())
            said += namespaces.run("ip", "netns", "exec", self._prefix + name, *command)
        return said

    def _link(self, near: str, near_end: str, far: str, far_end: str) -> None:
        namespaces.run(
            "ip", "link", "add", "name", near_end, "netns", self._prefix + near, "type", "veth",
            "peer", "name", far_end, "netns", self._prefix + far,
        )  # fmt: skip
        self._ip(near, f"link set dev {near_end} up")
        self._ip(far, f"link set dev {far_end} up")

    def _masquerade(self, name: str) -> None:
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        namespaces.run("ip", "netns", "exec", self._prefix + name, "sh", "-c", forward)
        self._iptables(name, "-t nat -A POSTROUTING -o wan -j MASQUERADE")
        self._firewall(name)

    def _firewall(self, name: str) -> None:
        self._iptables(name, "-P FORWARD DROP", "-A INPUT -i wan -j DROP")
        self._iptables(name, "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
        self._iptables(name, "-A FORWARD ! -i wan -o wan -j ACCEPT")


@contextmanager
def open_home(
    folder: Path, *speaks: str, wan: str = WAN, says: str | None = None
) -> Iterator[Home]:
    """A home that is gone when the block ends.

    Args:
        folder: for the daemon's files.
        speaks: which of upnp, nat-pmp and pcp the router speaks.
        wan: the router's outer address; any but the usual one puts a carrier's NAT before it.
        says: the outer address that the router claims to have.

    Raises:
        NetlabUnavailable: it cannot be built on this machine.
    """
    require()
    namespaces.sweep()
    home = Home(folder, frozenset(speaks), wan, says)
    try:
        home.build()
        yield home
    finally:
        home.close()
