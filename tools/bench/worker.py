"""One process of a benchmark: a rival's server or client that does what its parent asks for.

    python -m tools.bench.worker RIVAL server|client

It reads one JSON object a line and answers with one. Streams begin with a kind and a size, so that
rivals need no half-close: S takes so many bytes and says how many were right, E echoes them, and
T says how much processor time the server has taken so far.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from p2p import open_service_nursery
from tools.bench.orders import Orders, errors_told
from tools.bench.rivals import HEADER_BYTES, Client, Pipe, Rival, call_over_pipe, load_rival

_PATTERN = bytes(range(256)) * 4096
"""The byte at offset o of a stream is o modulo 256, whatever the sizes of writes."""
_LOAD = _PATTERN[:65_536]
_VERDICT_BYTES = 8
_LOAD_HEAD_START_S = 0.2
"""After so long a stream of bulk has filled every buffer on its way."""
_SETTLE_S = 1.0
"""After so long a new connection has done what it does unasked, such as libp2p's identify."""
_DIALS_AT_ONCE = 8


class WrongBytes(Exception):
    """What came is not what was sent: nothing that was measured counts."""


async def serve(pipe: Pipe) -> None:
    """One stream, until what its header announced has come."""
    head = b""
    while len(head) < HEADER_BYTES:
        part = await pipe.receive()
        if not part:
            return
        head += part
    kind, size, data = head[:1], int.from_bytes(head[1:HEADER_BYTES], "big"), head[HEADER_BYTES:]
    if kind == b"E":
        while len(data) < size:
            data += await pipe.receive()
        await pipe.send(data)
    else:
        verdict = time.process_time_ns() if kind == b"T" else await _count_right(pipe, data, size)
        await pipe.send(verdict.to_bytes(_VERDICT_BYTES, "big"))
        # Whoever sent wrong bytes reads the verdict only when it has sent all of them.
        while not verdict and await pipe.receive():
            pass
    await pipe.close()


async def _count_right(pipe: Pipe, data: bytes, size: int) -> int:
    """Take so many bytes; returns how many, or 0 if a piece does not begin and end as sent."""
    come = 0
    while True:
        if data and (data[0] != come % 256 or data[-1] != (come + len(data) - 1) % 256):
            return 0
        come += len(data)
        if come >= size:
            return come
        data = await pipe.receive()
        if not data:
            return 0


def _header(kind: bytes, size: int) -> bytes:
    return kind + size.to_bytes(HEADER_BYTES - 1, "big")


async def send_bulk(client: Client, size_bytes: int, write_bytes: int) -> None:
    """Send so many bytes over a new stream and have them counted; raises WrongBytes."""
    pipe = await client.open()
    await pipe.send(_header(b"S", size_bytes))
    data = _PATTERN[:write_bytes]
    for _ in range(size_bytes // write_bytes):
        await pipe.send(data)
    verdict = await _receive_exactly(pipe, _VERDICT_BYTES)
    if int.from_bytes(verdict, "big") != size_bytes:
        raise WrongBytes(f"{size_bytes} bytes were sent, and arrived wrong")
    await pipe.close()


async def server_cpu_s(client: Client) -> float:
    """How much processor time the server's process has taken."""
    pipe = await client.open()
    await pipe.send(_header(b"T", 0))
    taken_ns = int.from_bytes(await _receive_exactly(pipe, _VERDICT_BYTES), "big")
    await pipe.close()
    return taken_ns / 1e9


async def call(client: Client, size_bytes: int) -> None:
    """A small call; raises WrongBytes."""
    if await client.call(_PATTERN[:size_bytes]) != _PATTERN[:size_bytes]:
        raise WrongBytes("the answer differs")


async def echo(client: Client, size_bytes: int) -> None:
    """A new stream, so many bytes there and back; raises WrongBytes."""
    if await call_over_pipe(client, _PATTERN[:size_bytes]) != _PATTERN[:size_bytes]:
        raise WrongBytes("the echo differs")


async def _receive_exactly(pipe: Pipe, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        part = await pipe.receive()
        if not part:
            raise WrongBytes("the stream ended early")
        data += part
    return data


class ClientWorker:
    """The orders that a client's process takes; each returns what to answer."""

    def __init__(self, rival: Rival, address: str, nursery: trio.Nursery) -> None:
        self._rival = rival
        self._address = address
        self._nursery = nursery

    async def bulk(self, *, size_bytes: int, write_bytes: int, streams: int) -> dict[str, Any]:
        """Send over several streams at once; size_bytes is that of all together."""
        async with self._rival.open_client() as client:
            await client.connect(self._address)
            await send_bulk(client, 4 * write_bytes, write_bytes)
            each = max(1, size_bytes // streams // write_bytes) * write_bytes
            theirs_s = await server_cpu_s(client)
            ours_s, begun = time.process_time(), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(streams):
                    nursery.start_soon(send_bulk, client, each, write_bytes)
            return {
                "seconds": time.perf_counter() - begun,
                "sender_cpu_s": time.process_time() - ours_s,
                "receiver_cpu_s": await server_cpu_s(client) - theirs_s,
                "size_bytes": each * streams,
            }

    async def connect(self, *, times: int) -> dict[str, Any]:
        """Seconds from nothing to a connection that is ready, which then carries a byte."""
        seconds = []
        for _ in range(times):
            async with self._rival.open_client() as client:
                begun = time.perf_counter()
                await client.connect(self._address)
                seconds.append(time.perf_counter() - begun)
                await call(client, 1)
        return {"seconds": seconds}

    async def call(
        self, *, times: int, size_bytes: int, loaded: bool = False, stream: bool = False
    ) -> dict[str, Any]:
        """Seconds of each call (or bare stream), alone or beside a stream of bulk."""
        once = echo if stream else call
        load = _Load()
        async with self._rival.open_client() as client, trio.open_nursery() as nursery:
            await client.connect(self._address)
            for _ in range(min(20, times)):
                await once(client, size_bytes)
            if loaded:
                nursery.start_soon(load.send_for_ever, client)
                await trio.sleep(_LOAD_HEAD_START_S)
            seconds = []
            sent_before, all_begun = load.sent_bytes, time.perf_counter()
            for _ in range(times):
                begun = time.perf_counter()
                await once(client, size_bytes)
                seconds.append(time.perf_counter() - begun)
            load_bytes, took_s = load.sent_bytes - sent_before, time.perf_counter() - all_begun
            nursery.cancel_scope.cancel()
        return {"seconds": seconds, "load_bytes": load_bytes, "took_s": took_s}

    async def hold(self, *, connections: int) -> dict[str, Any]:
        """Open so many connections of different peers, and keep them."""
        dialing = trio.CapacityLimiter(_DIALS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(self._nursery.start, self._hold_one, dialing)
        return {}

    async def _hold_one(self, dialing: trio.CapacityLimiter, task_status: Any) -> None:
        async with self._rival.open_client() as client:
            async with dialing:
                await client.connect(self._address)
            task_status.started()
            await trio.sleep_forever()


class _Load:
    """A stream of bulk without an end."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    async def send_for_ever(self, client: Client) -> None:
        """Fill the connection until cancelled."""
        pipe = await client.open()
        await pipe.send(_header(b"S", 2**62))
        while True:
            await pipe.send(_LOAD)
            self.sent_bytes += len(_LOAD)


def _rss_bytes() -> int:
    """The memory that this process occupies now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


async def _run_server(rival: Rival, orders: Orders, come: trio.MemoryReceiveChannel[Any]) -> None:
    async with rival.open_server(serve) as address:
        orders.answer({"address": address})
        async for _ in come:
            # There is only one order for a server: say how much memory it occupies.
            await trio.sleep(_SETTLE_S)
            orders.answer({"rss_bytes": _rss_bytes()})


async def _run_client(rival: Rival, orders: Orders, come: trio.MemoryReceiveChannel[Any]) -> None:
    address = (await come.receive())["address"]
    async with open_service_nursery() as nursery:
        worker = ClientWorker(rival, address, nursery)
        does: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "bulk": worker.bulk,
            "connect": worker.connect,
            "call": worker.call,
            "hold": worker.hold,
        }
        orders.answer({})
        async for order in come:
            orders.answer(await does[order.pop("do")](**order))


async def _run(role: str, rival: Rival, orders: Orders) -> None:
    """Take orders until the parent is gone, whatever is under way then."""
    pass_on, come = trio.open_memory_channel[Any](1)
    async with open_service_nursery() as nursery:
        nursery.start_soon(_listen, orders, pass_on, nursery.cancel_scope)
        if role == "server":
            await _run_server(rival, orders, come)
        else:
            await _run_client(rival, orders, come)


async def _listen(
    orders: Orders, pass_on: trio.MemorySendChannel[Any], scope: trio.CancelScope
) -> None:
    while (order := await orders.wait()) is not None:
        await pass_on.send(order)
    scope.cancel()


def main() -> None:
    """Run as the arguments say; an error is an answer, too."""
    orders = Orders()
    name, role = sys.argv[1:]
    with errors_told(orders):
        trio.run(_run, role, load_rival(name), orders)


if __name__ == "__main__":
    main()
