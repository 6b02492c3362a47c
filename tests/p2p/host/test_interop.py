"""We speak with a libp2p host that we did not write: the stock host of py-libp2p."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PrivateKey
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from p2p import PeerId, Stream, open_node

ECHO = "/test/echo/1"
SIZE = 1 << 20


@asynccontextmanager
async def stock_host() -> AsyncIterator[Any]:
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, X25519PrivateKey.new())
    host = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_preference="YAMUX")

    async def echo(stream: Any) -> None:
        received = bytearray()
        while len(received) < SIZE:
            received += await stream.read(SIZE - len(received))
        await stream.write(bytes(received))
        await stream.close()

    host.set_stream_handler(ECHO, echo)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host


async def our_echo(stream: Stream) -> None:
    await stream.send_all(await stream.receive_exactly(SIZE))


async def test_we_dial_the_stock_host() -> None:
    async with stock_host() as host, open_node() as node:
        await node.connect_address(str(host.get_addrs()[0]))
        stream = await node.open_stream(PeerId(host.get_id().to_base58()), ECHO)
        data = node.rng.randbytes(SIZE)
        await stream.send_all(data)
        assert await stream.receive_exactly(SIZE) == data
        await stream.aclose()


async def test_the_stock_host_dials_us() -> None:
    async with stock_host() as host, open_node() as node:
        node.serve(ECHO, our_echo)
        await host.connect(info_from_p2p_addr(Multiaddr(node.addresses[0])))
        peer_id = info_from_p2p_addr(Multiaddr(node.addresses[0])).peer_id
        rtts = await PingService(host).ping(peer_id, 3)
        assert len(rtts) == 3
        stream = await host.new_stream(peer_id, [ECHO])
        data = node.rng.randbytes(SIZE)
        await stream.write(data)
        received = b""
        while len(received) < SIZE:
            received += await stream.read(SIZE - len(received))
        assert received == data
