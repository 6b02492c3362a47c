"""The doctor behind real routers, as a new user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.testing.netlab import Host, Netlab
from tests.processes.command import ENVIRONMENT, ROOT

BOOTSTRAPS = 3
TEST_S_MAX = 240.0
Checks = dict[str, dict[str, Any]]


def start(host: Host, *arguments: str) -> subprocess.Popen[str]:
    """Our command on a host of the laboratory."""
    return host.start(
        [sys.executable, "-m", "tools.cli", *arguments], folder=ROOT, environment=ENVIRONMENT
    )


def start_bootstraps(lab: Netlab, folder: Path) -> list[str]:
    """Public nodes that know each other and serve as relays; their addresses."""

    def start_node(number: int, *options: str) -> subprocess.Popen[str]:
        key = str(folder / f"boot{number}.key")
        host = lab.add_host(f"boot{number}")
        return start(host, "node", "--json", "--relay", "--identity", key, *options)

    def address_of(node: subprocess.Popen[str]) -> str:
        assert node.stdout is not None
        addresses: list[str] = json.loads(node.stdout.readline())["addresses"]
        return next(one for one in addresses if "/5.6.7." in one)

    first = address_of(start_node(0))
    others = [start_node(n, f"--initial-peers={first}") for n in range(1, BOOTSTRAPS)]
    return [first, *map(address_of, others)]


def examine(lab: Netlab, folder: Path, hosts: dict[str, Host]) -> dict[str, Checks]:
    """What the doctor says on each host, all at once: by host, and by check."""
    addresses = ",".join(start_bootstraps(lab, folder))
    doctors = {
        kind: start(
            host, "doctor", "--json", "--no-bandwidth", "--identity",
            str(folder / f"{host.name}.key"), "--initial-peers", addresses,
        )
        for kind, host in hosts.items()
    }  # fmt: skip
    checks: dict[str, Checks] = {}
    for kind, doctor in doctors.items():
        out, _ = doctor.communicate(timeout=TEST_S_MAX)
        assert doctor.returncode == 0, out
        said = json.loads(out)
        assert said["can_take_part"], said
        checks[kind] = {check["name"]: check for check in said["checks"]}
    return checks


def check_words(checks: Checks, words: dict[str, tuple[str, str, str]]) -> None:
    """Each check named: its verdict, words of its evidence, and of its advice, or no advice."""
    for name, (verdict, evidence, advice) in words.items():
        said = checks[name]
        assert said["verdict"] == verdict, said
        assert evidence in said["evidence"], said
        assert advice in said["advice"], said
        assert bool(advice) == bool(said["advice"]), said


Place = Callable[[Netlab], Host]
USUAL: dict[str, tuple[Place, dict[str, tuple[str, str, str]]]] = {
    "public": (
        lambda lab: lab.add_host("plain"),
        {
            "reachability": ("well", "Others can connect to this peer from outside. /ip4/5.6", ""),
            "NAT": ("well", "Nothing stands between", ""),
            "port mapping": ("well", "not needed", ""),
        },
    ),
    "port-restricted": (
        lambda lab: lab.add_router("home", nat="port-restricted").add_host("alice"),
        {
            "reachability": ("well", "most then directly, by hole punching", "a second NAT"),
            "NAT": ("well", "hole punching works", ""),
            "port mapping": ("warn", "192.168.1.1 speaks none of PCP", "forward TCP port 31337"),
            "relays": ("well", "through 2 relays", ""),
        },
    ),
    "symmetric": (
        lambda lab: lab.add_router("office", nat="symmetric").add_host("bob"),
        {
            "reachability": ("warn", "They come through a relay; direct paths", "turn on UPnP"),
            "NAT": ("warn", "(symmetric)", "a phone's network"),
            "relays": ("well", "through 2 relays", ""),
        },
    ),
}
OTHERS: dict[str, tuple[Place, dict[str, tuple[str, str, str]]]] = {
    "carrier-grade": (
        lambda lab: lab.add_router("carrier", nat="carrier-grade").add_host("carol"),
        {
            "reachability": ("well", "most then directly, by hole punching", "a VPN that"),
            "NAT": ("warn", "(carrier-grade NAT). It keeps one", "Ask your provider"),
            "port mapping": ("warn", "no router of your own", "Ask your provider"),
        },
    ),
    "UPnP router": (
        lambda lab: lab.add_router("box", nat="upnp").add_host("dave"),
        {
            "reachability": ("well", "Others can connect to this peer from outside. /ip4/5.6", ""),
            "NAT": ("well", "Behind a router with NAT", ""),
            "port mapping": ("well", "The router passes /ip4/5.6.7.", ""),
        },
    ),
    "firewall without NAT": (
        lambda lab: lab.add_host_in("firewall", "erin"),
        {
            "reachability": ("well", "most then directly, by hole punching", "Let TCP port 31337"),
            "NAT": ("warn", "The address is a public one", "Let TCP port 31337 in through"),
            "port mapping": ("well", "not needed", ""),
        },
    ),
    # As miniupnpd does, the inner router refuses to map what its own router would not pass on.
    "double NAT": (
        lambda lab: lab.add_router("isp").add_router("inner", nat="upnp").add_host("frank"),
        {
            "reachability": ("well", "most then directly, by hole punching", "bridge or access"),
            "NAT": ("warn", "Behind two routers in a row", "31337 on both"),
            "port mapping": ("warn", "has no outer address that it would map", "31337 on both"),
        },
    ),
}


@pytest.mark.timeout(TEST_S_MAX)
@pytest.mark.parametrize(
    "places",
    [
        pytest.param(USUAL, id="usual"),
        pytest.param(OTHERS, id="others", marks=pytest.mark.netlab),
    ],
)
def test_the_doctor_tells_the_kinds_of_routers_apart(
    places: dict[str, tuple[Place, dict[str, tuple[str, str, str]]]], lab: Netlab, tmp_path: Path
) -> None:
    checks = examine(lab, tmp_path, {kind: place(lab) for kind, (place, _) in places.items()})
    for kind, (_, words) in places.items():
        check_words(checks[kind], words)
        check_words(
            checks[kind],
            {
                "network": ("well", "This computer has the address", ""),
                "identity": ("well", "it is made at start", ""),
                "entry": ("well", "All 3 initial peers answered", ""),
                "clock": ("well", "within 1 s of the median clock", ""),
                "bandwidth": ("unknown", "as you asked", ""),
                "versions": ("well", "manyhands 0.", ""),
            },
        )
