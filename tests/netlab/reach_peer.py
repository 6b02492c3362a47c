"""A node on a host of the laboratory that says what it finds out about how others reach it.

python -m tests.netlab.reach_peer no-mapping|mapping PORT [MULTIADDRESS …]
"""

from __future__ import annotations

import json
import sys

import trio

from p2p import Node, NodeConfig, P2PError, open_node


def say(**facts: object) -> None:
    """Tell the test."""
    print(json.dumps({"at_s": trio.current_time(), **facts}), flush=True)


async def main(mapping: str, port: str, *peers: str) -> None:
    """Listen everywhere, keep connections to the peers, and report every change."""
    config = NodeConfig(
        listen=(f"/ip4/0.0.0.0/tcp/{port}",),
        port_mapping=mapping == "mapping",
        hole_punching=False,
    )
    async with open_node(config) as node, trio.open_nursery() as nursery:
        say(event="listening", addresses=node.addresses)
        for address in peers:
            nursery.start_soon(keep_connected, node, address)
        await report_always(node)


async def keep_connected(node: Node, address: str) -> None:
    """Connect, and again whenever the connection is lost."""
    while True:
        try:
            peer_id = await node.connect_address(address)
        except P2PError:
            await trio.sleep(0.5)
            continue
        await node.wait_disconnected(peer_id)


async def report_always(node: Node) -> None:
    """Say how things stand, whenever that has changed."""
    before: dict[str, object] = {}
    while True:
        report = node.net_report
        now: dict[str, object] = {
            "reachability": report.reachability,
            "mapping": report.mapping,
            "behind": report.behind,
            "addresses": node.addresses,
            "useless_because": report.port_mapping and report.port_mapping.useless_because,
        }
        if now != before:
            details = [(d.address, d.source, d.reachability, d.evidence) for d in report.details]
            say(event="report", **now, details=details, line=str(report))
        before = now
        await trio.sleep(0.1)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
