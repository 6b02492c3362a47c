"""Two muxers over a byte stream in memory, which can turn into a black hole."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import memory_stream_pair

from p2p import Identity
from p2p.host.handshake import SessionKeys
from p2p.host.muxed_stream import MuxedStream
from p2p.host.muxer import Muxer
from p2p.host.noise import NoiseSession

MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


@dataclass
class Pair:
    """Two muxers that talk to each other; what the near one opens, the far one hands out."""

    near: Muxer
    far: Muxer
    near_stream: MemoryStream
    far_stream: MemoryStream
    _opened: trio.MemoryReceiveChannel[MuxedStream] = field(repr=False)

    async def open(self) -> tuple[MuxedStream, MuxedStream]:
        """Both ends of a new stream."""
        near = self.near.open_stream()
        self.near.wake_writer()
        return near, await self._opened.receive()

    def black_hole(self) -> None:
        """From now on, nothing gets through in either direction, and nobody is told."""
        self.near_stream.send_stream.send_all_hook = None
        self.far_stream.send_stream.send_all_hook = None
        self.near_stream.send_stream.close_hook = None
        self.far_stream.send_stream.close_hook = None


def noise_pair() -> tuple[NoiseSession, NoiseSession, MemoryStream, MemoryStream]:
    """Two ends of a session as after a handshake."""
    near_stream, far_stream = memory_stream_pair()
    near_id, far_id = Identity.generate().peer_id, Identity.generate().peer_id
    one, other = b"1" * 32, b"2" * 32
    return (
        NoiseSession(near_stream, SessionKeys(far_id, one, other, b"", is_dialer=True)),
        NoiseSession(far_stream, SessionKeys(near_id, other, one, b"", is_dialer=False)),
        near_stream,
        far_stream,
    )


@asynccontextmanager
async def open_pair() -> AsyncIterator[Pair]:
    """Both muxers run while the block lasts."""
    near_noise, far_noise, near_stream, far_stream = noise_pair()
    send, receive = trio.open_memory_channel[MuxedStream](math.inf)
    near = Muxer(near_noise, dialer=True, on_stream=lambda stream: stream.reset())
    far = Muxer(far_noise, dialer=False, on_stream=send.send_nowait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run)
        nursery.start_soon(far.run)
        yield Pair(near, far, near_stream, far_stream, receive)
        nursery.cancel_scope.cancel()


async def check_alive(near: MuxedStream, far: MuxedStream) -> None:
    """Bytes get through both ways."""
    for sender, receiver in ((near, far), (far, near)):
        await sender.send_all(b"still here")
        assert await receiver.receive_exactly(10) == b"still here"
