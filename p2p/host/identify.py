"""What any libp2p peer expects of another: identify and ping.

Source: libp2p specification, identify and ping.
"""

from __future__ import annotations

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from p2p.address import Address, TcpAddress
from p2p.errors import StreamBroken
from p2p.host.handshake import KEY_PREFIX
from p2p.host.stream import Stream

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"
AGENT = "manyhands"
_PING_BYTES = 32
_PING_TIMEOUT_S = 60.0
_SEND_TIMEOUT_S = 10.0


async def serve_ping(stream: Stream) -> None:
    """Send back each 32 bytes until the other side ends or falls silent."""
    while True:
        with trio.move_on_after(_PING_TIMEOUT_S) as scope:
            first = await stream.receive_some(1)
            if not first:
                return
            rest = await stream.receive_exactly(_PING_BYTES - 1)
            await stream.send_all(first + rest)
        if scope.cancelled_caught:
            raise StreamBroken("ping fell silent")


async def serve_identify(
    stream: Stream,
    *,
    public_key: bytes,
    listening: tuple[Address, ...],
    observed: TcpAddress | None,
    protocols: tuple[str, ...],
) -> None:
    """Tell the peer who we are, where we listen, what we speak, and how we see it."""
    message = Identify(
        protocol_version="ipfs/0.1.0",
        agent_version=AGENT,
        public_key=KEY_PREFIX + public_key,
        listen_addrs=[Multiaddr(str(address)).to_bytes() for address in listening],
        observed_addr=Multiaddr(_transport_part(observed)).to_bytes() if observed else b"",
        protocols=protocols,
    ).SerializeToString()
    with trio.fail_after(_SEND_TIMEOUT_S):
        await stream.send_all(_varint(len(message)) + message)


def _transport_part(address: TcpAddress) -> str:
    return f"/{address.kind}/{address.host}/tcp/{address.port}"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
