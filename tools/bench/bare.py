"""The least that an encrypted round costs: the work on its bytes, and nothing else.

The processes stream their parts to each other, average them, and stream the averages back, as ours
do, in records of the same ciphers and sizes, with fixed keys. What our promise asks for is done:
norms of all that comes in, digests of all averages, and a copy at the end, so that nothing changes
before. There is no group to find, no protocol, no agreement, and nobody may be lost. What ours
takes beyond it is the price of these.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import numpy as np
import trio
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

Array = np.ndarray[Any, Any]

_CHUNK_ELEMENTS: Final = 524_288
_RECORDS: dict[str, tuple[type[AESGCM] | type[ChaCha20Poly1305], int]] = {
    "bare-aes": (AESGCM, 524_288),
    "bare-noise": (ChaCha20Poly1305, 65_519),
}
"""The cipher, and how many bytes a record holds at most."""
_KEY_BYTES, _TAG_BYTES = 32, 16
_BUFFER_BYTES: Final = 1_048_576
_ROW_ELEMENTS: Final = 8_192
_HOST: Final = "127.0.0.1"


class _Wire:
    """One connection to another process; both ends know which sizes come next."""

    def __init__(self, rival: str, own: trio.socket.SocketType, rank: int, other: int) -> None:
        cipher, self._record_bytes_max = _RECORDS[rival]
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = own
        # A key for each direction, as a nonce must not come twice.
        self._sealing = cipher(bytes([rank]) * _KEY_BYTES)
        self._opening = cipher(bytes([other]) * _KEY_BYTES)
        self._sealed_count = self._opened_count = 0
        self._out, self._in = bytearray(), bytearray(_BUFFER_BYTES)
        self._start = self._end = 0

    def _records(self, values: Array) -> list[memoryview]:
        data, most = values.view(np.uint8).data, self._record_bytes_max
        return [data[start : start + most] for start in range(0, len(data), most)]

    async def send(self, values: Array) -> None:
        """Send these, shape (elements,)."""
        records = self._records(values)
        size = values.nbytes + len(records) * _TAG_BYTES
        if len(self._out) < size:
            self._out = bytearray(size)
        sealed, position = memoryview(self._out)[:size], 0
        for plain in records:
            end = position + len(plain) + _TAG_BYTES
            self._sealed_count += 1
            nonce = self._sealed_count.to_bytes(12, "little")
            self._sealing.encrypt_into(nonce, plain, None, sealed[position:end])
            position = end
        while sealed:
            try:
                sealed = sealed[os.write(self._socket.fileno(), sealed) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket.fileno())
        await trio.lowlevel.checkpoint()

    async def receive(self, out: Array) -> None:
        """Fill this with what comes, shape (elements,)."""
        for plain in self._records(out):
            size = len(plain) + _TAG_BYTES
            while self._end - self._start < size:
                await self._read(size)
            self._opened_count += 1
            sealed = memoryview(self._in)[self._start : self._start + size]
            nonce = self._opened_count.to_bytes(12, "little")
            self._opening.decrypt_into(nonce, sealed, None, plain)
            self._start += size

    async def _read(self, wanted_bytes: int) -> None:
        """Read what there is; the buffer has room for all that is wanted."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._in) - self._start < wanted_bytes:
            held = self._end - self._start
            self._in[:held] = self._in[self._start : self._end]
            self._start, self._end = 0, held
        try:
            with memoryview(self._in)[self._end :] as room:
                size = os.readv(self._socket.fileno(), [room])
        except BlockingIOError:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            return
        if not size:
            raise ConnectionError("another process is gone")
        self._end += size


class Bare:
    """What a process needs to average with the others.

    Args:
        wires: to the others, by rank.
    """

    def __init__(self, rank: int, wires: dict[int, _Wire]) -> None:
        self._rank = rank
        self._wires = wires
        self._result: Array = np.empty(0, np.float32)
        self._arrived: dict[int, Array] = {}

    @property
    def peers(self) -> int:
        """How many processes average."""
        return len(self._wires) + 1

    async def average(self, values_V: Array) -> None:
        """Average in place with the others, who do the same: shape (elements,), float32."""
        spans = self._spans(len(values_V))
        if len(self._result) != len(values_V):
            self._result = np.empty_like(values_V)
            own = spans[self._rank]
            self._arrived = {rank: np.empty_like(values_V[own]) for rank in self._wires}
        _square_sum(values_V)
        chunks = _chunks(spans[self._rank])
        there = {rank: [trio.Event() for _ in chunks] for rank in self._wires}
        averaged = [trio.Event() for _ in chunks]
        async with trio.open_nursery() as nursery:
            for rank, wire in self._wires.items():
                nursery.start_soon(self._send, wire, values_V, spans[rank], averaged)
                nursery.start_soon(self._receive, wire, spans[rank], rank, there[rank])
            for number, chunk in enumerate(chunks):
                for events in there.values():
                    await events[number].wait()
                self._add_up(values_V, chunk)
                averaged[number].set()
        values_V[:] = self._result

    def _spans(self, elements: int) -> list[slice]:
        bounds = [elements * rank // self.peers for rank in range(self.peers + 1)]
        return [slice(*bounds[rank : rank + 2]) for rank in range(self.peers)]

    def _add_up(self, values_V: Array, chunk: slice) -> None:
        start = self._spans(len(values_V))[self._rank].start
        here = slice(chunk.start - start, chunk.stop - start)
        parts = [values_V[chunk], *(arrived[here] for arrived in self._arrived.values())]
        out = self._result[chunk]
        np.add(parts[0], parts[1], out=out)
        for part in parts[2:]:
            np.add(out, part, out=out)
        out /= np.float32(self.peers)
        blake3(out.view(np.uint8).data).digest()

    async def _send(
        self, wire: _Wire, values_V: Array, theirs: slice, averaged: list[trio.Event]
    ) -> None:
        for chunk in _chunks(theirs):
            await wire.send(values_V[chunk])
        for chunk, event in zip(
            _chunks(self._spans(len(values_V))[self._rank]), averaged, strict=True
        ):
            await event.wait()
            await wire.send(self._result[chunk])

    async def _receive(
        self, wire: _Wire, theirs: slice, rank: int, there: list[trio.Event]
    ) -> None:
        arrived = self._arrived[rank]
        for chunk, event in zip(_chunks(slice(0, len(arrived))), there, strict=True):
            await wire.receive(arrived[chunk])
            _square_sum(arrived[chunk])
            event.set()
        for chunk in _chunks(theirs):
            await wire.receive(self._result[chunk])
            blake3(self._result[chunk].view(np.uint8).data).digest()


def _square_sum(values: Array) -> float:
    whole = len(values) - len(values) % _ROW_ELEMENTS
    rows, rest = values[:whole].reshape(-1, _ROW_ELEMENTS), values[whole:]
    return float(np.vecdot(rows, rows).sum(dtype=np.float64)) + float(np.vdot(rest, rest))


def _chunks(span: slice) -> list[slice]:
    starts = range(span.start, span.stop, _CHUNK_ELEMENTS)
    return [slice(start, min(start + _CHUNK_ELEMENTS, span.stop)) for start in starts]


@asynccontextmanager
async def open_bare(
    rival: str, rank: int, meet: Callable[[str], Awaitable[list[str]]]
) -> AsyncIterator[Bare]:
    """Connect with all others.

    Args:
        rival: bare-aes or bare-noise, which says what the records are.
        meet: given where this process listens, where each of them does, by rank.
    """
    async with AsyncExitStack() as stack:
        listener = (await trio.open_tcp_listeners(0, host=_HOST))[0]
        async with listener:
            ports = await meet(str(listener.socket.getsockname()[1]))
            streams = {}
            for other in range(rank):
                stream = await trio.open_tcp_stream(_HOST, int(ports[other]))
                await stream.send_all(bytes([rank]))
                streams[other] = stream
            while len(streams) < len(ports) - 1:
                stream = await listener.accept()
                streams[(await stream.receive_some(1))[0]] = stream
        for stream in streams.values():
            await stack.enter_async_context(stream)
        wires = {
            other: _Wire(rival, stream.socket, rank, other) for other, stream in streams.items()
        }
        yield Bare(rank, wires)
