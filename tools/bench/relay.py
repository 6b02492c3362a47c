"""A relay in a process of its own, for peers that measure what it carries.

    python -m tools.bench.relay

It prints its address and serves, with no limit that could be felt, until its stdin ends.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from subprocess import PIPE

import trio

from p2p import NodeConfig, RelayLimits, open_node
from tools.bench.processes import PACKAGES_FOLDER

_PLENTY = 1 << 50
LIMITS = RelayLimits(
    requests_per_minute_and_peer=_PLENTY,
    requests_per_minute_and_network=_PLENTY,
    circuit_bytes_each_way=_PLENTY,
    circuit_bytes_per_s=_PLENTY,
    peer_bytes_per_s=_PLENTY,
    peer_bytes_per_hour=_PLENTY,
    bytes_per_s=_PLENTY,
    bytes_per_hour=_PLENTY,
)


@asynccontextmanager
async def open_relay() -> AsyncIterator[str]:
    """The process while the block lasts; the value is its address."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "tools.bench.relay"],
                cwd=PACKAGES_FOLDER,
                stdin=PIPE,
                stdout=PIPE,
            )
        )
        line = b""
        while not line.endswith(b"\n"):
            part = await process.stdout.receive_some()
            if not part:
                raise RuntimeError("the relay ended before it said where it is")
            line += part
        try:
            yield line.decode().strip()
        finally:
            # Its stdin ends with ours, too, if we are killed.
            nursery.cancel_scope.cancel()


async def _serve() -> None:
    config = NodeConfig(relay=True, relay_limits=LIMITS)
    async with open_node(config) as node:
        print(node.addresses[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(_serve)
