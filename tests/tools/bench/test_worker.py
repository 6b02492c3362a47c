"""The traffic of a benchmark: whatever arrives otherwise than it was sent spoils the figure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import memory_stream_pair

from tools.bench import worker
from tools.bench.rivals import call_over_pipe

Change = Callable[[bytes], bytes]
SIZE = 1 << 20


class MemoryPipe:
    """A rival's stream in memory, which may change what the other side gets of it."""

    def __init__(self, stream: trio.abc.Stream, change: Change) -> None:
        self._stream = stream
        self._change = change

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive(self) -> bytes:
        return self._change(bytes(await self._stream.receive_some(10_000)))

    async def close(self) -> None:
        await self._stream.aclose()


class MemoryClient:
    """Serves each stream that it opens; the server gets what is changed on the way."""

    def __init__(self, nursery: trio.Nursery, change: Change) -> None:
        self._nursery = nursery
        self._change = change

    async def connect(self, address: str) -> None:
        """There is nothing to connect to."""

    async def open(self) -> MemoryPipe:
        near, far = memory_stream_pair()
        self._nursery.start_soon(worker.serve, MemoryPipe(far, self._change))
        return MemoryPipe(near, lambda data: data)

    async def call(self, data: bytes) -> bytes:
        return await call_over_pipe(self, data)


def flipping() -> Change:
    """Changes the first byte of the third piece."""
    count = 0

    def change(data: bytes) -> bytes:
        nonlocal count
        count += 1
        return bytes([data[0] ^ 1]) + data[1:] if count == 3 and data else data

    return change


def shortening() -> Change:
    """Loses the last byte of the third piece."""
    count = 0

    def change(data: bytes) -> bytes:
        nonlocal count
        count += 1
        return data[:-1] if count == 3 else data

    return change


@pytest.mark.parametrize("write_bytes", [4096, 65_536, SIZE])
async def test_what_arrives_as_sent_counts(nursery: trio.Nursery, write_bytes: int) -> None:
    client = MemoryClient(nursery, lambda data: data)
    await worker.send_bulk(client, SIZE, write_bytes)
    await worker.call(client, 32)
    await worker.echo(client, 1)
    assert await worker.server_cpu_s(client) > 0


@pytest.mark.parametrize("make_change", [flipping, shortening])
async def test_what_arrives_otherwise_does_not(
    nursery: trio.Nursery, make_change: Callable[[], Change]
) -> None:
    with pytest.raises(worker.WrongBytes, match="arrived wrong"):
        await worker.send_bulk(MemoryClient(nursery, make_change()), SIZE, 4096)


async def test_a_call_with_another_answer_is_none(nursery: trio.Nursery) -> None:
    client = MemoryClient(nursery, lambda data: data[:-1] + b"!")
    with pytest.raises(worker.WrongBytes, match="answer differs"):
        await worker.call(client, 32)
    with pytest.raises(worker.WrongBytes, match="echo differs"):
        await worker.echo(client, 1)
