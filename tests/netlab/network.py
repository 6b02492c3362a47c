"""A small network of real namespaces on this machine: hosts on one switch, and cables to pull.

A pulled cable is silent: the host's own end stays up, and what it sends is lost on the way.
Traffic stays inside the namespaces. They need root, and the package iproute2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
_SWITCH = "switch"


class Network:
    """Named hosts; each has one address."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._hosts: list[str] = []
        _ip("netns", "add", self._namespace(_SWITCH))
        self._in(_SWITCH, "link", "add", "bridge", "type", "bridge")
        self._in(_SWITCH, "link", "set", "bridge", "up")

    def _namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _in(self, host: str, *arguments: str) -> None:
        _ip("-n", self._namespace(host), *arguments)

    def add_host(self, host: str) -> str:
        """A new host on the switch; returns its address."""
        self._hosts.append(host)
        address = f"5.6.7.{len(self._hosts)}"
        _ip("netns", "add", self._namespace(host))
        self._in(host, "link", "set", "lo", "up")
        self._in(
            host, "link", "add", "eth0", "type", "veth",
            "peer", "name", host, "netns", self._namespace(_SWITCH),
        )  # fmt: skip
        self._in(host, "address", "add", f"{address}/24", "dev", "eth0")
        self._in(host, "link", "set", "eth0", "up")
        self._in(_SWITCH, "link", "set", host, "up")
        self.plug(host)
        return address

    def plug(self, host: str) -> None:
        """Put the host's cable into the switch."""
        self._in(_SWITCH, "link", "set", host, "master", "bridge")

    def unplug(self, host: str) -> None:
        """From now on nothing gets through, in either direction, and nobody is told."""
        self._in(_SWITCH, "link", "set", host, "nomaster")

    def limit_rate(self, host: str, rate: str) -> None:
        """Limit what the host sends, as tc writes rates: 20mbit."""
        arguments = ["qdisc", "replace", "dev", "eth0", "root", "tbf"]
        arguments += ["rate", rate, "burst", "16kb", "latency", "50ms"]
        _run("tc", "-n", self._namespace(host), *arguments)

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """How to run a Python module of ours on the host."""
        inside = ["ip", "netns", "exec", self._namespace(host)]
        return [*inside, sys.executable, "-m", *arguments]

    def close(self) -> None:
        """Remove everything; a namespace's links go with it."""
        for host in (*self._hosts, _SWITCH):
            _run("ip", "netns", "delete", self._namespace(host), check=False)


@contextmanager
def open_network() -> Iterator[Network]:
    """A network that is gone when the block ends; those that killed runs left behind go first."""
    _sweep()
    with ExitStack() as stack:
        network = Network(f"mh{os.getpid()}")
        stack.callback(network.close)
        yield network


def _sweep() -> None:
    """Remove the namespaces of processes that are no more."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        number = name.removeprefix("mh").partition("-")[0]
        if name.startswith("mh") and number.isdigit() and not Path(f"/proc/{number}").exists():
            _run("ip", "netns", "delete", name, check=False)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def require_namespaces() -> None:
    """Skip where namespaces cannot be had, and say so; in CI that is a failure."""
    try:
        with open_network():
            return
    except (OSError, RuntimeError) as exc:
        reason = f"NETWORK NAMESPACES ARE NOT TESTED HERE: {exc} (they need root and iproute2)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
