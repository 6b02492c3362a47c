"""Who is measured: each rival carries the same bytes in its own way, in processes of its own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

HEADER_BYTES = 9
"""A stream begins with a kind (S: count what comes, E: echo it) and a size (8 bytes)."""


class Pipe(Protocol):
    """One two-way stream of bytes."""

    async def send(self, data: bytes) -> None:
        """Send all of it."""

    async def receive(self) -> bytes:
        """Whatever has come, as a user of this rival would read it; empty at the end."""

    async def close(self) -> None:
        """Close it."""


class Client(Protocol):
    """The side that dials."""

    async def connect(self, address: str) -> None:
        """Make a new connection that is ready for streams."""

    async def open(self) -> Pipe:
        """A new stream to the peer; for rivals without streams, a new connection."""

    async def call(self, data: bytes) -> bytes:
        """A small call whose answer are the same bytes, as a user of this rival would make it."""


class Handler(Protocol):
    """Serves one stream."""

    async def __call__(self, pipe: Pipe) -> None:
        """Serve it until it is done."""


class Rival(Protocol):
    """One way to carry bytes."""

    def open_server(self, handle: Handler) -> AbstractAsyncContextManager[str]:
        """Serve streams with the handler; the value is the address to dial."""

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """A client without a connection."""


NAMES = {
    "tcp": "trio TCP",
    "tls": "trio SSLStream",
    "stock": "py-libp2p",
    "noise": "ours, Noise",
    "aes": "ours, AES",
}
"""TCP in clear; TLS 1.3; py-libp2p's own Noise and yamux; ours with anybody, and with our own."""
RELAYED = "relayed"
RELAYED_NAME = "ours, AES, relayed"
"""Ours through a relay in a third process; not a rival but what a path through one costs."""


async def call_over_pipe(client: Client, data: bytes) -> bytes:
    """A call as a program without calls would make it: a stream, the bytes, their echo."""
    pipe = await client.open()
    await pipe.send(b"E" + len(data).to_bytes(HEADER_BYTES - 1, "big") + data)
    received = b""
    while len(received) < len(data) and (part := await pipe.receive()):
        received += part
    await pipe.close()
    return received


def load_rival(name: str) -> Rival:
    """The rival of this name; what it needs is imported only now.

    Raises:
        ImportError: what it needs is not installed.
    """
    if name in ("tcp", "tls"):
        from tools.bench.rivals.sockets import SocketRival

        return SocketRival(tls=name == "tls")
    if name == "stock":
        from tools.bench.rivals.stock import StockRival

        return StockRival()
    from tools.bench.rivals.ours import OurRival

    if name == RELAYED:
        from tools.bench.rivals.relayed import RelayedRival

        return RelayedRival()
    return OurRival(record_layer="noise" if name == "noise" else "auto")
