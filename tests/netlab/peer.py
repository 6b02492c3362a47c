"""A node on a host of the laboratory; says as lines of JSON what happens to it.

python -m tests.netlab.peer listen ADDRESS
python -m tests.netlab.peer dial MULTIADDRESS idle|watched|bulk:BYTES|call:TIMEOUT_S|calls:TIMES …
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import trio

from p2p import (
    Message,
    Method,
    Node,
    NodeConfig,
    P2PError,
    PeerId,
    RpcService,
    Stream,
    open_node,
    rpc_client,
)

SINK, HANG, ECHO = "/test/sink/1", "/test/hang/1", "/test/echo/1"
SERVICE = "netlab-test"
_BLOCK = bytes(range(256)) * 256


class Question(Message, frozen=True):
    """Asks, and answers."""


PONDER = Method("ponder", Question, Question)
"""A call that is never answered."""


def say(event: str, **more: Any) -> None:
    """Tell the test, with the time."""
    print(json.dumps({"event": event, "at_s": time.monotonic(), **more}), flush=True)


async def sink(stream: Stream) -> None:
    """Count what comes, and answer with its hash."""
    digest = hashlib.sha256()
    while data := await stream.receive_some():
        digest.update(data)
    await stream.send_all(digest.digest())


async def hang(stream: Stream) -> None:
    """Never answer."""
    await trio.sleep_forever()


async def ponder(caller: PeerId, question: Question) -> Question:
    """Never answer a call."""
    await trio.sleep_forever()
    raise AssertionError


async def echo(stream: Stream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def listen(host: str) -> None:
    """Serve until stdin closes."""
    service = RpcService(SERVICE)
    service.unary(PONDER, ponder)
    async with (
        open_node(NodeConfig(listen=(f"/ip4/{host}/tcp/0",))) as node,
        service.serving(node),
        trio.open_nursery() as nursery,
    ):
        for protocol, handler in ((SINK, sink), (HANG, hang), (ECHO, echo)):
            node.serve(protocol, handler)
        say("listening", address=node.addresses[0])
        nursery.start_soon(_report_losses, node)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def _report_losses(node: Node) -> None:
    while not node.connected_peers:  # noqa: ASYNC110 - a node tells nobody of newcomers
        await trio.sleep(0.05)
    say("connected")
    await node.wait_disconnected(node.connected_peers[0])
    say("lost")


async def dial(address: str, works: list[str]) -> None:
    """Connect, do all works at once, and say how each ends."""
    async with open_node(NodeConfig(client_mode=True)) as node:
        peer_id = await node.connect_address(address)
        say("connected", record_layer=node.connections[0].record_layer)
        async with trio.open_nursery() as nursery:
            for work in works:
                name, _, amount = work.partition(":")
                nursery.start_soon(_do, node, peer_id, name, int(amount or 0))
    say("done")


async def _do(node: Node, peer_id: PeerId, name: str, amount: int) -> None:
    try:
        if name == "idle":
            await node.wait_disconnected(peer_id)
            say("lost")
        elif name == "watched":
            with node.watched([peer_id]):
                say("watching")
                await node.wait_disconnected(peer_id)
            say("lost")
        elif name == "bulk":
            say("bulk", right=await _send_bulk(node, peer_id, amount))
        elif name == "calls":
            await _call_often(node, peer_id, amount)
        else:
            await rpc_client(node, SERVICE).call(peer_id, PONDER, Question(), timeout_s=amount)
    except P2PError as exc:
        say(name, error=type(exc).__name__)


async def _send_bulk(node: Node, peer_id: PeerId, size_bytes: int) -> bool:
    """Send so many bytes; returns whether exactly they arrived."""
    stream = await node.open_stream(peer_id, SINK)
    digest = hashlib.sha256()
    for start in range(0, size_bytes, len(_BLOCK)):
        data = _BLOCK[: size_bytes - start]
        digest.update(data)
        await stream.send_all(data)
        if start == 0:
            say("bulk begun")
    await stream.send_eof()
    return await stream.receive_exactly(32) == digest.digest()


async def _call_often(node: Node, peer_id: PeerId, times: int) -> None:
    for _ in range(times):
        stream = await node.open_stream(peer_id, ECHO)
        begun = time.monotonic()
        await stream.send_all(b"small")
        await stream.receive_exactly(5)
        say("call", seconds=time.monotonic() - begun)
        await stream.aclose()


if __name__ == "__main__":
    role, address, *rest = sys.argv[1:]
    if role == "listen":
        trio.run(listen, address)
    else:
        trio.run(dial, address, rest)
