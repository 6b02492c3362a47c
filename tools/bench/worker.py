"""One process of a benchmark: a rival's server or client that does what its parent asks for.

    python -m tools.bench.worker RIVAL server|client

It reads one JSON object a line and answers with one. Streams begin with a kind and a size, so that
rivals need no half-close: S takes so many bytes and says how many were right, E echoes them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from tools.bench.rivals import HEADER_BYTES, Client, Pipe, Rival, call_over_pipe, load_rival

_PATTERN = bytes(range(256)) * 4096
"""The byte at offset o of a stream is o modulo 256, whatever the sizes of writes."""
_VERDICT_BYTES = 8


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
        await pipe.send((await _count_right(pipe, data, size)).to_bytes(_VERDICT_BYTES, "big"))
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

    def __init__(self, rival: Rival, address: str, stack: AsyncExitStack) -> None:
        self._rival = rival
        self._address = address
        self._stack = stack

    async def connected(self) -> Client:
        """A new client with a new connection, kept until the process ends."""
        client = await self._stack.enter_async_context(self._rival.open_client())
        await client.connect(self._address)
        return client

    async def bulk(self, *, size_bytes: int, write_bytes: int, streams: int) -> dict[str, Any]:
        """Send over several streams at once; size_bytes is that of all together."""
        async with self._rival.open_client() as client:
            await client.connect(self._address)
            await send_bulk(client, 4 * write_bytes, write_bytes)
            each = max(1, size_bytes // streams // write_bytes) * write_bytes
            cpu_s, begun = time.process_time(), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(streams):
                    nursery.start_soon(send_bulk, client, each, write_bytes)
            return {
                "seconds": time.perf_counter() - begun,
                "cpu_s": time.process_time() - cpu_s,
                "size_bytes": each * streams,
            }

    async def connect(self, *, times: int) -> dict[str, Any]:
        """Seconds from nothing to a connection that carried a byte there and back."""
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
        async with self._rival.open_client() as client, trio.open_nursery() as nursery:
            await client.connect(self._address)
            for _ in range(20):
                await once(client, size_bytes)
            if loaded:
                nursery.start_soon(_send_for_ever, client)
                await trio.sleep(0.2)
            seconds = []
            for _ in range(times):
                begun = time.perf_counter()
                await once(client, size_bytes)
                seconds.append(time.perf_counter() - begun)
            nursery.cancel_scope.cancel()
        return {"seconds": seconds}

    async def hold(self, *, connections: int) -> dict[str, Any]:
        """Open so many connections, use each once, and keep them."""
        for _ in range(connections):
            await call(await self.connected(), 1)
        return {}


async def _send_for_ever(client: Client) -> None:
    pipe = await client.open()
    await pipe.send(_header(b"S", 2**62))
    while True:
        await pipe.send(_PATTERN)


def _usage() -> dict[str, Any]:
    """What this process has taken so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        rss_bytes = int(statm.read_text().split()[1]) * resource.getpagesize()
    else:
        rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": time.process_time(), "rss_bytes": rss_bytes}


async def _orders() -> dict[str, Any] | None:
    line = await trio.to_thread.run_sync(sys.stdin.readline)
    return json.loads(line) if line else None


def _answer(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


async def _run_server(rival: Rival) -> None:
    async with rival.open_server(serve) as address:
        _answer({"address": address})
        while await _orders() is not None:
            _answer(_usage())


async def _run_client(rival: Rival) -> None:
    first = await _orders()
    if first is None:
        return
    async with AsyncExitStack() as stack:
        worker = ClientWorker(rival, first["address"], stack)
        _answer({})
        while (order := await _orders()) is not None:
            _answer(await getattr(worker, order.pop("do"))(**order))


def main() -> None:
    """Run as the arguments say; an error is an answer, too."""
    name, role = sys.argv[1:]
    try:
        rival = load_rival(name)
        trio.run(_run_server if role == "server" else _run_client, rival)
    except Exception as exc:
        _answer({"error": f"{type(exc).__name__}: {exc}"})
        raise


if __name__ == "__main__":
    main()
