"""Worlds: where nodes may live, so that a test can run in each."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from p2p import Node, NodeConfig, Stream, open_node
from p2p.testing import SimNetwork

KINDS = ("real", "simulated")
PROTOCOL = "/test/echo/1"


class World:
    """Opens nodes of one kind, real or simulated."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._network = SimNetwork(seed=1)
        self._network.default_latency_s = 0.0

    @asynccontextmanager
    async def open_node(self, *, client_mode: bool = False) -> AsyncIterator[Node]:
        """A node on the loopback interface, or in the simulated network."""
        if self.kind == "real":
            async with open_node(NodeConfig(client_mode=client_mode)) as node:
                yield node
        else:
            async with self._network.open_node(client_mode=client_mode) as node:
                yield node


@asynccontextmanager
async def open_pair(world: World) -> AsyncIterator[tuple[Node, Node]]:
    """Alice and bob; alice knows where bob is."""
    async with world.open_node() as alice, world.open_node() as bob:
        alice.add_addresses(bob.peer_id, bob.addresses)
        yield alice, bob


async def echo(stream: Stream) -> None:
    """Send everything back, until the other side has finished."""
    while data := await stream.receive_some():
        await stream.send_all(data)


def capture(node: Node) -> Callable[[], Awaitable[Stream]]:
    """Serve the protocol by handing streams to the test; returns how to take the next one."""
    send, receive = trio.open_memory_channel[Stream](math.inf)

    async def hand_over(stream: Stream) -> None:
        send.send_nowait(stream)
        await trio.sleep_forever()

    node.serve(PROTOCOL, hand_over)
    return receive.receive


@asynccontextmanager
async def both_ends(alice: Node, bob: Node) -> AsyncIterator[tuple[Stream, Stream]]:
    """The two ends of a stream that alice has opened to bob."""
    take = capture(bob)
    opened = await alice.open_stream(bob.peer_id, PROTOCOL)
    with trio.fail_after(5):
        taken = await take()
    yield opened, taken
