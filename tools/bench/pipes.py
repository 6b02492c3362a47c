"""Loopback TCP between peers of one process, each with a limit on what it sends and receives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio

SEGMENT_BYTES: Final = 16_384
"""What takes its turn at a link: small, so that the streams of a peer share it evenly."""
# What a link may catch up on after the machine let it wait.
_BURST_S: Final = 0.05
_BUFFER_BYTES: Final = 65_536


StreamKey: TypeAlias = tuple[int, int]
"""The numbers of the member and of the aggregator whose span it carries."""


class Link:
    """One direction of a peer's link: a token bucket that its streams share in turn."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_s = trio.current_time()

    async def carry(self, size_bytes: int) -> None:
        """Wait until so many bytes have passed."""
        begin_s = max(self._free_s, trio.current_time() - _BURST_S)
        self._free_s = begin_s + size_bytes / self._bytes_per_s
        await trio.sleep_until(self._free_s)


@dataclass
class Peer:
    """A peer's two links, and its ends of its streams."""

    up: Link
    down: Link
    streams: dict[StreamKey, trio.SocketStream] = field(default_factory=dict)

    async def send(self, key: StreamKey, data: memoryview) -> None:
        """Send all of it, as fast as the link allows and the other takes it."""
        for start in range(0, len(data), SEGMENT_BYTES):
            segment = data[start : start + SEGMENT_BYTES]
            await self.up.carry(len(segment))
            await self.streams[key].send_all(segment)

    async def receive(self, key: StreamKey, size_bytes: int) -> bytes:
        """Receive so much, as fast as the link allows."""
        received = bytearray()
        while len(received) < size_bytes:
            wanted = min(SEGMENT_BYTES, size_bytes - len(received))
            segment = await self.streams[key].receive_some(wanted)
            if not segment:
                raise trio.BrokenResourceError("a peer of the benchmark hung up")
            await self.down.carry(len(segment))
            received += segment
        return bytes(received)


async def connect(peers: list[Peer], member: int, owner: int) -> None:
    """Open a TCP connection over loopback from a member to an aggregator."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        near = await trio.open_tcp_stream("127.0.0.1", port)
        far = await listener.accept()
    for stream in (near, far):
        # What waits in buffers has passed no link of its receiver.
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _BUFFER_BYTES)
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, _BUFFER_BYTES)
    peers[member].streams[member, owner] = near
    peers[owner].streams[member, owner] = far


async def hang_up(peers: list[Peer]) -> None:
    """Close every stream."""
    for peer in peers:
        for stream in peer.streams.values():
            await trio.aclose_forcefully(stream)
