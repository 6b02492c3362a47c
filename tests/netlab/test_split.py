"""Split training between two processes on different sides of routers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.testing.netlab import Host, Link, Netlab
from tests.netlab.table import NOTES
from tests.processes.command import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(240)]
LISTEN = "/ip4/0.0.0.0/tcp/31337"
STEPS = 100


def start(host: Host, *arguments: str) -> subprocess.Popen[str]:
    """The command on a host."""
    command = [sys.executable, "-m", "tools.cli", *arguments, "--listen", LISTEN]
    return host.start(command, folder=ROOT, environment=ENVIRONMENT)


def test_a_client_behind_a_router_trains_with_a_server_behind_another(
    lab: Netlab, tmp_path: Path
) -> None:
    link = Link(up_mbit_per_s=20, down_mbit_per_s=100, delay_ms=10)
    boot, relay = lab.add_host("boot"), lab.add_host("relay")
    clinic = lab.add_router("clinic", nat="port-restricted", link=link).add_host("client")
    lab_host = lab.add_router("lab", nat="port-restricted", link=link).add_host("server")
    node = start(boot, "node", "--relay", "--identity", str(tmp_path / "boot"), "--json")
    assert node.stdout is not None
    told = json.loads(node.stdout.readline())
    address = next(one for one in told["addresses"] if f"/{boot.address}/" in one)
    key = str(tmp_path / "relay")
    start(relay, "node", "--relay", "--identity", key, "--initial-peers", address, "--json")
    train = ("train", "split-digits", "--steps", str(STEPS), "--initial-peers", address, "--json")
    server = start(lab_host, *train, "--role", "server", "--clients", "1")
    client = start(clinic, *train, "--role", "client")
    results = []
    for process in (client, server):
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        results.append(json.loads(out.splitlines()[-1]))
    assert [one["ended"] for one in results] == ["finished", "finished"]
    assert results[0]["step"] == results[1]["step"] == STEPS
    assert results[0]["path"] in ("punched", "direct")
    NOTES.append((f"{STEPS} steps of split training, {results[0]['path']}", results[0]["seconds"]))
