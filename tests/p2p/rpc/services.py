"""A service with methods of all sorts, for the tests of this folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p import (
    Message,
    Method,
    Node,
    P2PError,
    PeerId,
    RefusedError,
    RpcService,
    Stream,
)
from p2p.testing import SimNetwork

NAME = "test"
PROTOCOL = "/manyhands/test/1"


class Number(Message, frozen=True):
    """A number, or how many seconds to take."""

    value: float


class Text(Message, frozen=True):
    """A text, such as the name of what to do."""

    text: str


DOUBLE = Method("double", Number, Number)
SLEEP = Method("sleep", Number, Number)
FAIL = Method("fail", Text, Text, request_bytes_max=10_000)
REPEAT = Method("repeat", Number, Text, response_bytes_max=1_000)


class Calls:
    """Serves all methods and remembers what became of the slow calls."""

    def __init__(self, calls_per_peer_max: int = 64) -> None:
        self.running = 0
        self.ended: list[tuple[str, float]] = []
        self.service = RpcService(NAME, calls_per_peer_max=calls_per_peer_max)
        self.service.unary(DOUBLE, self.double)
        self.service.unary(SLEEP, self.sleep)
        self.service.unary(FAIL, self.fail)
        self.service.unary(REPEAT, self.repeat)

    async def double(self, caller: PeerId, request: Number) -> Number:
        """Twice the number."""
        return Number(2 * request.value)

    async def sleep(self, caller: PeerId, request: Number) -> Number:
        """Take so many seconds."""
        self.running += 1
        try:
            await trio.sleep(request.value)
        except trio.Cancelled:
            self.ended.append(("cancelled", trio.current_time()))
            raise
        finally:
            self.running -= 1
        self.ended.append(("done", trio.current_time()))
        return request

    async def fail(self, caller: PeerId, request: Text) -> Text:
        """Fail in the way that is asked for."""
        match request.text:
            case "refuse":
                raise RefusedError("not-found", "no such thing")
            case "long refusal":
                raise RefusedError("c" * 100, "m" * 2_000)
            case "ours":
                raise P2PError("the peers behind me are gone")
            case "bug":
                raise KeyError("a secret of the implementation")
            case _:
                return request

    async def repeat(self, caller: PeerId, request: Number) -> Text:
        """So many letters."""
        return Text("x" * int(request.value))


@asynccontextmanager
async def caller_and_callee(
    network: SimNetwork, service: RpcService
) -> AsyncIterator[tuple[Node, Node]]:
    """Alice knows where bob is, who serves the service; one way takes 10 ms."""
    async with network.open_node("alice") as alice, network.open_node("bob") as bob:
        alice.add_addresses(bob.peer_id, bob.addresses)
        async with service.serving(bob):
            yield alice, bob


async def open_raw(caller: Node, callee: Node) -> Stream:
    """A stream of the service's protocol, to speak on it what no client of ours would."""
    return await caller.open_stream(callee.peer_id, PROTOCOL)
