"""The doctor behind real routers, as a new user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2p.testing.netlab import Host, Netlab
from tests.processes.command import ENVIRONMENT, ROOT

BOOTSTRAPS = 3
TEST_S_MAX = 240.0


def start(host: Host, *arguments: str) -> subprocess.Popen[str]:
    """Our command on a host of the laboratory."""
    return host.start(
        [sys.executable, "-m", "tools.cli", *arguments], folder=ROOT, environment=ENVIRONMENT
    )


def start_bootstraps(lab: Netlab, folder: Path) -> list[str]:
    """Public nodes that know each other, the first a relay; their addresses."""
    addresses: list[str] = []
    for number in range(BOOTSTRAPS):
        host = lab.add_host(f"boot{number}")
        key = str(folder / f"boot{number}.key")
        enter = [f"--initial-peers={addresses[0]}"] if addresses else []
        node = start(host, "node", "--json", "--relay", "--identity", key, *enter)
        assert node.stdout is not None
        addresses += [
            one for one in json.loads(node.stdout.readline())["addresses"] if "/5.6.7." in one
        ]
    return addresses


def examine(host: Host, folder: Path, addresses: list[str]) -> dict[str, Any]:
    """What the doctor says on this host."""
    key = str(folder / f"{host.name}.key")
    doctor = start(
        host, "doctor", "--json", "--no-bandwidth", "--identity", key,
        "--initial-peers", ",".join(addresses),
    )  # fmt: skip
    out, _ = doctor.communicate(timeout=TEST_S_MAX)
    said: dict[str, Any] = json.loads(out)
    return said


@pytest.mark.timeout(TEST_S_MAX)
def test_the_doctor_tells_the_kinds_of_routers_apart(lab: Netlab, tmp_path: Path) -> None:
    addresses = start_bootstraps(lab, tmp_path)
    hosts = {
        "public": lab.add_host("plain"),
        "port-restricted": lab.add_router("home", nat="port-restricted").add_host("alice"),
        "symmetric": lab.add_router("office", nat="symmetric").add_host("bob"),
    }
    said = {kind: examine(host, tmp_path, addresses) for kind, host in hosts.items()}
    checks = {
        kind: {check["name"]: check for check in diagnosis["checks"]}
        for kind, diagnosis in said.items()
    }
    assert all(diagnosis["can_take_part"] for diagnosis in said.values()), said
    assert checks["public"]["reachability"]["verdict"] == "well", said
    assert "Nothing stands between" in checks["public"]["NAT"]["evidence"]
    assert "hole punching works" in checks["port-restricted"]["NAT"]["evidence"], said
    assert "Others cannot connect" in checks["port-restricted"]["reachability"]["evidence"]
    assert "(symmetric)" in checks["symmetric"]["NAT"]["evidence"], said
    assert checks["symmetric"]["NAT"]["verdict"] == "warn"
