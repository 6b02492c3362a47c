"""The stock host of py-libp2p, with the Noise and yamux that it ships."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PrivateKey
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from tools.bench.rivals import Client, Handler, call_over_pipe

_PROTOCOL = "/manyhands/bench/1"
# What its own examples and its perf protocol read at once.
_READ_BYTES = 65_536


def _new_host() -> Any:
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, X25519PrivateKey.new())
    return new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_preference="YAMUX")


class StockRival:
    """Two hosts and one connection."""

    @asynccontextmanager
    async def open_server(self, handle: Handler) -> AsyncIterator[str]:
        host = _new_host()

        async def serve(stream: Any) -> None:
            await handle(_Pipe(stream))

        host.set_stream_handler(_PROTOCOL, serve)
        async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            yield str(host.get_addrs()[0])

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Client]:
        host = _new_host()
        async with host.run(listen_addrs=[]):
            yield _Client(host)


class _Client:
    def __init__(self, host: Any) -> None:
        self._host = host

    async def connect(self, address: str) -> None:
        info = info_from_p2p_addr(Multiaddr(address))
        await self._host.connect(info)
        self._peer_id = info.peer_id

    async def open(self) -> _Pipe:
        return _Pipe(await self._host.new_stream(self._peer_id, [_PROTOCOL]))

    async def call(self, data: bytes) -> bytes:
        return await call_over_pipe(self, data)


class _Pipe:
    def __init__(self, stream: Any) -> None:
        self.send = stream.write
        self.close = stream.close
        self._stream = stream

    async def receive(self) -> bytes:
        return bytes(await self._stream.read(_READ_BYTES))
