"""A node that punches holes, on a host of the laboratory; says as lines of JSON what happens.

python -m tests.netlab.puncher relay HOST
python -m tests.netlab.puncher wait RELAY [OBSERVER …]
python -m tests.netlab.puncher dial CIRCUIT RELAY [OBSERVER …]

Observers are public nodes, such as relays, that tell how they see us.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from p2p import Node, NodeConfig, PeerId, Stream, open_node
from p2p.address import TcpAddress, parse_tcp_address
from p2p.dial.hole_puncher import open_hole_puncher
from p2p.dial.punch import PunchResult
from p2p.host.host import Host
from p2p.host.identify import IDENTIFY_PROTOCOL
from tests.netlab.peer import ECHO, echo, say


async def relay(host: str) -> None:
    """Serve as a relay, and tell all how we see them, until stdin closes."""
    async with open_node(NodeConfig(listen=(f"/ip4/{host}/tcp/4001",), relay=True)) as node:
        say("listening", address=node.addresses[0])
        await trio.to_thread.run_sync(sys.stdin.read)


async def seen_by(node: Node, peer_id: PeerId) -> TcpAddress:
    """How a peer sees our connection, which must have left from our listening port."""
    [info] = [one for one in node.connections if one.peer_id == peer_id]
    assert info.from_listen_port, info
    stream = await node.open_stream(peer_id, IDENTIFY_PROTOCOL)
    data = b""
    while part := await stream.receive_some():
        data += part
    size = 1 if data[0] < 0x80 else 2
    seen = Identify.FromString(data[size:]).observed_addr
    return parse_tcp_address(str(Multiaddr(seen)))


@asynccontextmanager
async def open_puncher(
    observers: list[str], results: trio.MemorySendChannel[PunchResult]
) -> AsyncIterator[Node]:
    """A node that knows how all observers see it."""

    def on_result(result: PunchResult) -> None:
        say(
            "result",
            outcome=result.outcome,
            began=result.began,
            tries=result.tries,
            seconds=result.seconds,
            reason=result.reason,
        )
        results.send_nowait(result)

    async with open_node(NodeConfig(listen=("/ip4/0.0.0.0/tcp/4001",))) as node:
        seen = [await seen_by(node, await node.connect_address(one)) for one in observers]
        host = node._transport
        assert isinstance(host, Host)
        node.serve(ECHO, echo)
        async with open_hole_puncher(
            node, host, observed=lambda: tuple(dict.fromkeys(seen)), on_result=on_result
        ):
            yield node


async def wait(observers: list[str]) -> None:
    """Reserve at the first observer, and serve until stdin closes."""
    results, _inbox = trio.open_memory_channel[PunchResult](16)
    async with open_puncher(observers, results) as node:
        assert node.relay_client is not None
        relay_id = parse_tcp_address(observers[0]).peer_id
        assert relay_id is not None
        await node.relay_client.reserve(relay_id)
        say("reserved", address=f"{observers[0]}/p2p-circuit/p2p/{node.peer_id}")
        await trio.to_thread.run_sync(sys.stdin.read)


async def dial(circuit: str, observers: list[str]) -> None:
    """Come through the relay, and say how streams travel before and after the punch."""
    results, inbox = trio.open_memory_channel[PunchResult](16)
    async with open_puncher(observers, results) as node:
        began_s = trio.current_time()
        peer_id = await node.connect_address(circuit)
        first = await node.open_stream(peer_id, ECHO)
        await say_echo("first", first)
        await inbox.receive()
        paths = [one.path for one in node.connections if one.peer_id == peer_id]
        say("settled", seconds=trio.current_time() - began_s, paths=paths)
        second = await node.open_stream(peer_id, ECHO)
        await say_echo("second", second)
        await say_echo("first again", first)
        await first.aclose()
        await _retired(node, peer_id)
        await say_echo("second again", second)
        say("done", paths=[one.path for one in node.connections if one.peer_id == peer_id])


async def say_echo(name: str, stream: Stream) -> None:
    """Send something on a stream and say whether it came back."""
    await stream.send_all(b"small")
    say(name, path=stream.path, right=await stream.receive_exactly(5) == b"small")


async def _retired(node: Node, peer_id: PeerId) -> None:
    """Return when a better connection has replaced the relayed one; at once if there is none."""
    while True:
        paths = [one.path for one in node.connections if one.peer_id == peer_id]
        if len(paths) == 1:
            return
        await trio.sleep(0.05)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "relay":
        trio.run(relay, arguments[0])
    elif role == "wait":
        trio.run(wait, arguments)
    else:
        trio.run(dial, arguments[0], arguments[1:])
