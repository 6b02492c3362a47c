"""The two processes of a soak: one serves, the other reconnects, cancels and moves checked bulk.

python -m tests.soak.peer listen
python -m tests.soak.peer dial MULTIADDRESS SECONDS SEED
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections import Counter
from contextlib import aclosing
from typing import Any

import trio

from p2p import (
    Message,
    Method,
    Node,
    NodeConfig,
    PeerId,
    RpcService,
    Stream,
    StreamBroken,
    UnreachableError,
    open_node,
    rpc_client,
)
from tests.p2p.host.wires import pattern
from tests.p2p.worlds import echo

ECHO, SWALLOW = "/test/echo/1", "/test/swallow/1"
SERVICE = "soak"
BULK_WORKERS, CANCEL_WORKERS, CALL_WORKERS = 3, 2, 2
RECONNECT_S_MAX = 5.0
SETTLE_S = 5.0
_PIECE_BYTES_MAX = 250_000


class Number(Message, frozen=True):
    """What calls carry there, and one more back."""

    value: int


ADD_ONE = Method("add-one", Number, Number)


class ContentWrong(Exception):
    """Other bytes came than were sent."""


def say(event: str, **more: Any) -> None:
    """A line of JSON for the one who watches."""
    print(json.dumps({"event": event, **more}), flush=True)


# Serving


async def swallow(stream: Stream) -> None:
    """Take what comes, slowly enough that writers have to wait."""
    while await stream.receive_some(50_000):  # noqa: ASYNC110 - it is no waiting for a condition
        await trio.sleep(0.001)


async def add_one(caller: PeerId, number: Number) -> Number:
    """One more."""
    return Number(number.value + 1)


async def listen() -> None:
    """Serve until stdin closes."""
    service = RpcService(SERVICE)
    service.unary(ADD_ONE, add_one)
    async with open_node() as node, service.serving(node):
        node.serve(ECHO, echo)
        node.serve(SWALLOW, swallow)
        say("listening", address=node.addresses[0])
        await trio.to_thread.run_sync(sys.stdin.read)


# Working


class Soak:
    """Works on one peer until the time is over; counts what was done, and what was interrupted."""

    def __init__(self, node: Node, peer_id: PeerId, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._node = node
        self._peer_id = peer_id
        self._seed = seed

    async def work(self, seconds: float) -> None:
        """All works side by side; those under way at the end are cancelled."""
        works = [self._bulk] * BULK_WORKERS + [self._cancel] * CANCEL_WORKERS
        works += [self._call] * CALL_WORKERS + [self._reconnect]
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for number, one in enumerate(works):
                    rng = random.Random(f"{self._seed} {number}")
                    nursery.start_soon(self._repeat, one, rng)

    async def _repeat(self, one: Any, rng: random.Random) -> None:
        while True:
            try:
                await one(rng)
            except* (StreamBroken, UnreachableError):
                # The connection was closed underneath, by _reconnect: the only excuse.
                self.counts["interrupted"] += 1

    async def _bulk(self, rng: random.Random) -> None:
        """A few megabytes there and back at once, each byte compared."""
        start, size_bytes = rng.randrange(1 << 30), rng.randrange(1, 8_000_000)
        stream = await self._node.open_stream(self._peer_id, ECHO)
        async with aclosing(stream), trio.open_nursery() as nursery:
            nursery.start_soon(_send_text, stream, start, size_bytes)
            position = 0
            while data := await stream.receive_some(_PIECE_BYTES_MAX):
                if data != pattern(start + position, len(data)):
                    raise ContentWrong(f"wrong bytes near {position} of {size_bytes}")
                position += len(data)
            if position != size_bytes:
                raise ContentWrong(f"{position} bytes came back of {size_bytes}")
        self.counts["bulk_bytes"] += 2 * size_bytes

    async def _cancel(self, rng: random.Random) -> None:
        """Cancel a write and a read at some moment, and leave in one of three ways."""
        protocol = rng.choice((SWALLOW, ECHO))
        stream = await self._node.open_stream(self._peer_id, protocol)
        async with aclosing(stream):
            with trio.move_on_after(rng.random() * 0.005) as writing:
                await stream.send_all(bytes(rng.randrange(4_000_000)))
            self.counts["cancelled_writes"] += writing.cancelled_caught
            if not writing.cancelled_caught:
                with trio.move_on_after(rng.random() * 0.005) as reading:
                    await stream.receive_exactly(5_000_000)
                self.counts["cancelled_reads"] += reading.cancelled_caught
                if rng.random() < 0.5:
                    await stream.send_eof()
            if rng.random() < 0.5:
                stream.reset()

    async def _call(self, rng: random.Random) -> None:
        """A small call, and now and then a pause."""
        value = rng.randrange(1 << 40)
        client = rpc_client(self._node, SERVICE)
        answer = await client.call(self._peer_id, ADD_ONE, Number(value), timeout_s=60)
        if answer.value != value + 1:
            raise ContentWrong(f"{answer.value} is the answer to another call")
        self.counts["calls"] += 1
        if rng.random() < 0.01:
            await trio.sleep(rng.random())

    async def _reconnect(self, rng: random.Random) -> None:
        """Close the connection under everybody's feet."""
        await trio.sleep(rng.random() * RECONNECT_S_MAX)
        await self._node.disconnect(self._peer_id)
        await self._node.connect(self._peer_id)
        self.counts["reconnects"] += 1


async def _send_text(stream: Stream, start: int, size_bytes: int) -> None:
    position = 0
    while position < size_bytes:
        piece = pattern(start + position, min(_PIECE_BYTES_MAX, size_bytes - position))
        await stream.send_all(piece)
        position += len(piece)
    await stream.send_eof()


async def dial(address: str, seconds: float, seed: int) -> None:
    """Work for so long, settle, and say what was done."""
    async with open_node(NodeConfig(client_mode=True)) as node:
        peer_id = await node.connect_address(address)
        soak = Soak(node, peer_id, seed)
        say("connected")
        await trio.to_thread.run_sync(sys.stdin.readline)  # until we have been looked at
        await soak.work(seconds)
        await node.disconnect(peer_id)
        await node.connect(peer_id)
        await trio.sleep(SETTLE_S)  # a fresh connection and nothing else, as at the beginning
        say("done", **soak.counts)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    role, *rest = sys.argv[1:]
    if role == "listen":
        trio.run(listen)
    else:
        trio.run(dial, rest[0], float(rest[1]), int(rest[2]))
