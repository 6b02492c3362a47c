"""What our side does in the tests with foreign peers: echo, ping, ask who they are."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from p2p import Node, PeerId, Stream
from p2p.host.handshake import KEY_PREFIX
from p2p.host.identify import IDENTIFY_PROTOCOL, PING_PROTOCOL
from p2p.peer_id import peer_id_of
from tests.interop.processes import ECHO

_IDENTIFY_BYTES_MAX = 65_536


@dataclass(frozen=True)
class Told:
    """What a foreign peer says of itself and of us."""

    agent: str
    peer_id: PeerId
    protocols: frozenset[str]
    observed: str


async def echo(stream: Stream) -> None:
    """Send everything back, until the other side has finished."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def identify_of(node: Node, peer_id: PeerId) -> Told:
    """Ask a peer who it is; its key must be an Ed25519 one."""
    stream = await node.open_stream(peer_id, IDENTIFY_PROTOCOL)
    data = b""
    while part := await stream.receive_some():
        data += part
        assert len(data) < _IDENTIFY_BYTES_MAX
    await stream.aclose()
    head = 1 if data[0] < 0x80 else 2
    size = data[0] & 0x7F | (data[1] << 7 if head == 2 else 0)
    assert len(data) == head + size
    message = Identify.FromString(data[head:])
    assert message.public_key.startswith(KEY_PREFIX)
    return Told(
        message.agent_version,
        peer_id_of(message.public_key[len(KEY_PREFIX) :]),
        frozenset(message.protocols),
        str(Multiaddr(message.observed_addr)),
    )


async def ping(node: Node, peer_id: PeerId) -> float:
    """The round trip of 32 bytes, in seconds."""
    stream = await node.open_stream(peer_id, PING_PROTOCOL)
    began_at_s = trio.current_time()
    sent = node.rng.randbytes(32)
    await stream.send_all(sent)
    assert await stream.receive_exactly(32) == sent
    await stream.aclose()
    return trio.current_time() - began_at_s


async def send_and_compare(
    node: Node, peer_id: PeerId, data: bytes, *, pause_s: float = 0.0, half_close: bool = True
) -> None:
    """Send to an echo and read all of it back; a pause lets it wait for us to read.

    Args:
        half_close: finish sending while the echo still comes, else only close at the end.
    """
    stream = await node.open_stream(peer_id, ECHO)

    async def send() -> None:
        await stream.send_all(data)
        if half_close:
            await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        # The other side's patience is real time in another process; nothing here could signal it.
        await trio.sleep(pause_s)
        assert await stream.receive_exactly(len(data)) == data
        if half_close:
            assert await stream.receive_some() == b""
    await stream.aclose()
