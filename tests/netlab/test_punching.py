"""Holes punched through real NATs and firewalls, and what is said where none can be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from p2p.testing.netlab import Host, Link, Netlab
from tests.processes.command import ENVIRONMENT, ROOT

LINK = Link(delay_ms=12.5)
"""Two of them on each way: 25 ms."""


@dataclass
class Peer:
    """A node on a host, and what it has said so far."""

    process: subprocess.Popen[str]

    def hear(self, event: str) -> dict[str, Any]:
        """The next time that it says this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        raise AssertionError(f"it ended with {self.process.wait()} before {event!r}")


def start(host: Host, *arguments: str) -> Peer:
    """The program on a host."""
    command = [sys.executable, "-m", "tests.netlab.puncher", *arguments]
    return Peer(host.start(command, folder=ROOT, environment=ENVIRONMENT))


def meet(lab: Netlab, dialer: Host, waiter: Host) -> tuple[Peer, Peer]:
    """The dialer comes to the waiter through a relay; both know how two public nodes see them."""
    publics = [lab.add_host(name) for name in ("relay", "observer")]
    relays = [start(host, "relay", host.address) for host in publics]
    observers = [relay.hear("listening")["address"] for relay in relays]
    waiting = start(waiter, "wait", *observers)
    circuit = waiting.hear("reserved")["address"]
    return start(dialer, "dial", circuit, *observers), waiting


@pytest.mark.netlab
@pytest.mark.parametrize(
    ("dialer", "waiter"),
    [
        ("port-restricted", "port-restricted"),
        ("firewall", "firewall"),
        ("firewall", "port-restricted"),
        ("carrier-grade", "carrier-grade"),
    ],
)
def test_punched(lab: Netlab, dialer: Any, waiter: Any) -> None:
    alice = lab.add_host_in(dialer, "alice", LINK)
    bob = lab.add_host_in(waiter, "bob", LINK)
    dialing, waiting = meet(lab, alice, bob)
    assert dialing.hear("first") | {"at_s": 0} == {
        "event": "first", "at_s": 0, "path": "relayed", "right": True,
    }  # fmt: skip
    here = dialing.hear("result")
    there = waiting.hear("result")
    assert (here["outcome"], there["outcome"]) == ("punched", "punched"), (here, there)
    assert (here["began"], there["began"]) == (False, True)
    assert here["tries"] == 1
    assert sorted(dialing.hear("settled")["paths"]) == ["punched", "relayed"]
    for stream, path in (
        ("second", "punched"), ("first again", "relayed"), ("second again", "punched"),
    ):  # fmt: skip
        said = dialing.hear(stream)
        assert (said["path"], said["right"]) == (path, True)
    assert dialing.hear("done")["paths"] == ["punched"]


@pytest.mark.netlab
@pytest.mark.parametrize(
    ("dialer", "waiter", "reason"),
    [
        ("port-restricted", "symmetric", "Our router gives each connection another port"),
        ("symmetric", "port-restricted", "The peer's router gives each connection another port"),
    ],
)
def test_what_cannot_be_punched_stays_relayed(
    lab: Netlab, dialer: Any, waiter: Any, reason: str
) -> None:
    alice = lab.add_host_in(dialer, "alice", LINK)
    bob = lab.add_host_in(waiter, "bob", LINK)
    dialing, waiting = meet(lab, alice, bob)
    there = waiting.hear("result")
    assert (there["outcome"], there["tries"]) == ("failed", 3)
    assert reason in there["reason"]
    assert dialing.hear("settled")["paths"] == ["relayed"]
    said = dialing.hear("second")
    assert (said["path"], said["right"]) == ("relayed", True)


def test_a_public_dialer_is_dialed_back(lab: Netlab) -> None:
    alice = lab.add_host_in("public", "alice", LINK)
    bob = lab.add_host_in("symmetric", "bob", LINK)
    dialing, waiting = meet(lab, alice, bob)
    assert waiting.hear("result")["outcome"] == "direct"
    assert dialing.hear("result")["outcome"] == "direct"
    assert dialing.hear("second")["path"] == "direct"


def test_neighbours_behind_one_router_use_their_own_network(lab: Netlab) -> None:
    home = lab.add_router("home", link=LINK)
    alice, bob = home.add_host("alice"), home.add_host("bob")
    dialing, waiting = meet(lab, alice, bob)
    said = waiting.hear("result")
    assert said["outcome"] == "punched", said
    assert dialing.hear("second")["path"] == "punched"
