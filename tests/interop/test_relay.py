"""Foreign peers reserve at our relay, and we at theirs; a third peer comes through and echoes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p import Node, NodeConfig, RelayLimits, open_node
from tests.interop.go_peer import echo as go_echo
from tests.interop.go_peer import open_go_peer
from tests.interop.js_peer import JsError, open_js_peer
from tests.interop.processes import ECHO, pattern

pytestmark = pytest.mark.slow
SIZE_BYTES = 1 << 20


@asynccontextmanager
async def open_our_relay(**limits: int) -> AsyncIterator[Node]:
    """A node that serves as a relay with room for the test's bytes, unless told otherwise."""
    config = NodeConfig(
        relay=True, relay_limits=RelayLimits(**{"circuit_bytes_each_way": 1 << 24, **limits})
    )
    async with open_node(config) as relay:
        yield relay


async def test_js_reaches_js_through_our_relay() -> None:
    async with open_our_relay() as relay, open_js_peer() as dialer:
        assert relay.relay_server is not None
        async with open_js_peer(f"{relay.addresses[0]}/p2p-circuit") as target:
            await relay.relay_server.wait_reserved(target.peer_id)
            circuit = f"{relay.addresses[0]}/p2p-circuit/p2p/{target.peer_id}"
            answer = await dialer("connect", address=circuit)
            assert answer == {"peer": target.peer_id, "limited": True}
            assert await dialer("ping", peer=target.peer_id) >= 0
            echoed = await dialer("echo", peer=target.peer_id, sizeBytes=SIZE_BYTES)
            assert echoed["sha256"] == hashlib.sha256(pattern(SIZE_BYTES)).hexdigest()
        with trio.fail_after(10):
            await relay.wait_disconnected(target.peer_id)
        with pytest.raises(JsError):
            await dialer("connect", address=circuit)


async def test_js_reaches_go_through_our_relay() -> None:
    async with open_our_relay() as relay, open_js_peer() as dialer:
        assert relay.relay_server is not None
        async with open_go_peer(
            "-autoRelay", "-forceReachabilityPrivate", f"-trustedRelays={relay.addresses[0]}"
        ) as target:
            await target.serve(ECHO, go_echo)
            await relay.relay_server.wait_reserved(target.peer_id)
            circuit = f"{relay.addresses[0]}/p2p-circuit/p2p/{target.peer_id}"
            answer = await dialer("connect", address=circuit)
            assert answer == {"peer": target.peer_id, "limited": True}
            assert await dialer("ping", peer=target.peer_id) >= 0
