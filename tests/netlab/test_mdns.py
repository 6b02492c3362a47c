"""mDNS on a real network of two machines: found without any address, and dialed there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from p2p.testing.netlab import Netlab, namespaces
from tests.processes.command import ENVIRONMENT, ROOT

NETWORK = "192.168.77."

NEIGHBOUR = """
import sys, trio
from p2p import NodeConfig, open_mdns, open_node

async def main():
    config = NodeConfig(listen=("/ip4/0.0.0.0/tcp/0",), dial_back=False, port_mapping=False)
    async with open_node(config) as node, open_mdns(node, run="digits") as mdns:
        print(node.peer_id, flush=True)
        with trio.fail_after(60):
            await mdns.wait_found()
            (peer_id,) = mdns.peers
            await node.connect(peer_id)
        (info,) = [one for one in node.connections if one.peer_id == peer_id][:1]
        print(peer_id, info.address, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
"""
"""Finds one neighbour by mDNS, connects to it, and says who and where it is."""


@pytest.fixture
def house(lab: Netlab) -> Iterator[tuple[str, str]]:
    """Two namespaces on one Ethernet, since hosts of the laboratory share none."""
    prefix = namespaces.new_prefix()
    bridge, *machines = (f"{prefix}{name}" for name in ("bridge", "alice", "bob"))
    try:
        for name in (bridge, *machines):
            namespaces.add(name)
        namespaces.run("ip", "-n", bridge, "link", "add", "name", "br0", "type", "bridge")
        namespaces.run("ip", "-n", bridge, "link", "set", "dev", "br0", "up")
        for number, machine in enumerate(machines, start=1):
            namespaces.run(
                "ip", "link", "add", "name", "eth0", "netns", machine, "type", "veth",
                "peer", "name", f"port{number}", "netns", bridge,
            )  # fmt: skip
            for where, command in (
                (bridge, f"link set dev port{number} master br0 up"),
                (machine, f"address add {NETWORK}{number}/24 dev eth0"),
                (machine, "link set dev eth0 up"),
            ):
                namespaces.run("ip", "-n", where, *command.split())
        yield machines[0], machines[1]
    finally:
        for name in (bridge, *machines):
            namespaces.remove(name)


def test_neighbours_find_each_other(house: tuple[str, str]) -> None:
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", machine, sys.executable, "-c", NEIGHBOUR],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for machine in house
    ]
    try:
        heard = []
        for process in processes:
            assert process.stdout is not None
            me = process.stdout.readline().strip()
            heard.append((me, *process.stdout.readline().split()))
        for (_, found, address), (other, _, _) in zip(heard, heard[::-1], strict=True):
            assert found == other
            assert address.startswith(f"/ip4/{NETWORK}")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
