"""`manyhands node --relay` as an operator starts it, with limits of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p import NodeConfig, Stream, open_node
from tests.processes.command import TEST_S_MAX, running_node

ECHO = "/test/echo/1"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def test_a_node_relays_within_the_limits_of_its_options(tmp_path: Path) -> None:
    client = NodeConfig(client_mode=True)
    options = ("--relay", "--relay-circuit-size", "0.5", "--relay-circuit-minutes", "3")
    with running_node(tmp_path, *options) as (_, address):
        async with open_node(client) as alice, open_node(client) as bob:
            bob.serve(ECHO, echo)
            assert bob.relay_client is not None
            await bob.relay_client.reserve(await bob.connect_address(address))
            await alice.connect_address(f"{address}/p2p-circuit/p2p/{bob.peer_id}")
            [info] = [one for one in alice.connections if one.peer_id == bob.peer_id]
            assert info.limit is not None
            assert (info.limit.bytes_each_way, info.limit.duration_s) == (500_000, 180)
            stream = await alice.open_stream(bob.peer_id, ECHO)
            await stream.send_all(bytes(100_000))
            assert await stream.receive_exactly(100_000) == bytes(100_000)
            # Beyond its bytes the circuit is cut.
            await stream.send_all(bytes(400_000))
            await alice.wait_disconnected(bob.peer_id)
            assert address.split("/p2p/")[1] in alice.connected_peers
