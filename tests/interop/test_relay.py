"""Foreign peers reserve at our relay, and we at theirs; a third peer comes through and echoes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2p import (
    Identity,
    Node,
    NodeConfig,
    RelayLimits,
    UnreachableError,
    open_node,
    wall_time_s,
)
from tests.interop.go_peer import echo as go_echo
from tests.interop.go_peer import open_go_peer
from tests.interop.js_peer import JsError, open_js_peer
from tests.interop.ours import echo as our_echo
from tests.interop.ours import ping, send_and_compare
from tests.interop.processes import ECHO, GO, JS, pattern

pytestmark = pytest.mark.slow
NEEDS = (*JS, *GO)
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
            assert await dialer("ping", peer=target.peer_id)
            echoed = await dialer("echo", peer=target.peer_id, sizeBytes=SIZE_BYTES)
            assert echoed["limited"]
            assert echoed["sha256"] == hashlib.sha256(pattern(SIZE_BYTES)).hexdigest()
        with trio.fail_after(10):
            await relay.wait_disconnected(target.peer_id)
        with pytest.raises(JsError):
            await dialer("connect", address=circuit)


async def test_js_reaches_go_through_our_relay() -> None:
    async with open_our_relay() as relay, open_js_peer() as dialer:
        assert relay.relay_server is not None
        async with open_go_peer(
            "-autoRelay",
            "-relayDiscovery=false",
            "-dhtClient",
            "-forceReachabilityPrivate",
            f"-trustedRelays={relay.addresses[0]}",
        ) as target:
            await target.serve(ECHO, go_echo)
            await relay.relay_server.wait_reserved(target.peer_id)
            circuit = f"{relay.addresses[0]}/p2p-circuit/p2p/{target.peer_id}"
            answer = await dialer("connect", address=circuit)
            assert answer == {"peer": target.peer_id, "limited": True}
            assert await dialer("ping", peer=target.peer_id)


@asynccontextmanager
async def open_relay_of(kind: str) -> AsyncIterator[str]:
    """A relay of js-libp2p, go-libp2p or ours; the value is its address."""
    async with AsyncExitStack() as stack:
        if kind == "js":
            yield (await stack.enter_async_context(open_js_peer(relay=True))).addresses[0]
        elif kind == "go":
            yield (await stack.enter_async_context(open_go_peer())).addresses[0]
        else:
            yield (await stack.enter_async_context(open_our_relay())).addresses[0]


@pytest.mark.parametrize("kind", ["js", "go"])
async def test_we_reach_each_other_through_a_foreign_relay(kind: str) -> None:
    client = NodeConfig(client_mode=True)
    async with (
        open_relay_of(kind) as address,
        open_node(client) as alice,
        open_node(client) as bob,
    ):
        bob.serve(ECHO, our_echo)
        relay_id = await bob.connect_address(address)
        assert bob.relay_client is not None
        # Its voucher is checked: signed by this relay, for bob, and not expired.
        assert (await bob.relay_client.reserve(relay_id)).voucher
        circuit = f"{address}/p2p-circuit/p2p/{bob.peer_id}"
        assert await alice.connect_address(circuit) == bob.peer_id
        [info] = [one for one in alice.connections if one.peer_id == bob.peer_id]
        assert info.path == "relayed"
        assert info.limit is not None
        assert info.limit.bytes_each_way is not None
        await send_and_compare(alice, bob.peer_id, pattern(16_384))
        # Nobody has reserved under this name, and the foreign relay's answer is understood.
        nobody = Identity.generate().peer_id
        with pytest.raises(UnreachableError, match="no reservation for it"):
            await alice.connect_address(f"{address}/p2p-circuit/p2p/{nobody}")


async def test_we_reach_js_through_our_relay() -> None:
    async with open_our_relay() as relay, open_node(NodeConfig(client_mode=True)) as ours:
        assert relay.relay_server is not None
        async with open_js_peer(f"{relay.addresses[0]}/p2p-circuit") as target:
            await relay.relay_server.wait_reserved(target.peer_id)
            circuit = f"{relay.addresses[0]}/p2p-circuit/p2p/{target.peer_id}"
            assert await ours.connect_address(circuit) == target.peer_id
            [info] = [one for one in ours.connections if one.peer_id == target.peer_id]
            assert info.path == "relayed"
            assert await ping(ours, target.peer_id) > 0


@pytest.mark.parametrize("kind", ["js", "go", "ours"])
async def test_we_are_reached_through_a_relay(kind: str) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(open_relay_of(kind))
        ours = await stack.enter_async_context(open_node(NodeConfig(client_mode=True)))
        dialer = await stack.enter_async_context(open_js_peer())
        ours.serve(ECHO, our_echo)
        relay_id = await ours.connect_address(address)
        assert ours.relay_client is not None
        held = await ours.relay_client.reserve(relay_id)
        assert held.expires_at_s > wall_time_s()
        assert ours.relay_client.relays == (relay_id,)
        circuit = f"{address}/p2p-circuit/p2p/{ours.peer_id}"
        answer = await dialer("connect", address=circuit)
        assert answer == {"peer": ours.peer_id, "limited": True}
        assert ours.net_report.connections_relayed == 1
        seen = await dialer("identified", peer=ours.peer_id)
        assert ECHO in seen["protocols"]
        assert await dialer("ping", peer=ours.peer_id)
        # A js relay carries 128 KiB in all, handshakes and identify included.
        echoed = await dialer("echo", peer=ours.peer_id, sizeBytes=16_384)
        assert echoed["limited"]
        assert echoed["sha256"] == hashlib.sha256(pattern(16_384)).hexdigest()
        # And we open a stream to the js peer over the same connection.
        assert await ping(ours, dialer.peer_id) > 0
