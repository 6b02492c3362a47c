"""Two simulated nodes, the second echoing, for the tests of this folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p import Node, Stream
from p2p.testing import SimNetwork

ECHO = "/test/echo/1"
SINK = "/test/sink/1"


async def echo(stream: Stream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def sink(stream: Stream) -> None:
    """Read everything, then tell when the last byte came."""
    size = 0
    while data := await stream.receive_some():
        size += len(data)
    await stream.send_all(f"{size} {trio.current_time():.6f}".encode())


@asynccontextmanager
async def alice_and_bob(network: SimNetwork) -> AsyncIterator[tuple[Node, Node]]:
    """Alice knows where bob is; bob serves ECHO and SINK."""
    async with network.open_node("alice") as alice, network.open_node("bob") as bob:
        alice.add_addresses(bob.peer_id, bob.addresses)
        bob.add_addresses(alice.peer_id, alice.addresses)
        bob.serve(ECHO, echo)
        bob.serve(SINK, sink)
        yield alice, bob


async def ping(stream: Stream) -> float:
    """How long a byte takes to an echo and back."""
    start_s = trio.current_time()
    await stream.send_all(b"x")
    assert await stream.receive_exactly(1) == b"x"
    return trio.current_time() - start_s
