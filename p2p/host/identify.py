"""What any libp2p peer expects of another: identify and ping, and identify asked by us.

Source: libp2p specification, identify and ping.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.address import AnyAddress, parse_tcp_address
from p2p.binary_address import (
    address_bytes,
    address_of_untrusted,
    tcp_address_of_untrusted,
)
from p2p.errors import MessageInvalid, P2PError, StreamBroken
from p2p.host.handshake import KEY_PREFIX
from p2p.host.stream import Stream, StreamHandler
from p2p.host.transport import ConnectionInfo, Identified, Transport
from p2p.peer_id import short
from p2p.protobuf import framed, read_framed_untrusted

logger = logging.getLogger(__name__)

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"
AGENT = "manyhands"
MESSAGE_BYTES_MAX = 32_768
"""Peers of other kinds speak some dozens of protocols; ours needs under 1 KiB."""
PROTOCOLS_MAX = 256
LISTENING_MAX = 16
_TEXT_MAX = 256
_PING_BYTES = 32
_PING_TIMEOUT_S = 60.0
_SEND_TIMEOUT_S = 10.0
_ASK_TIMEOUT_S = 10.0


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


@dataclass(frozen=True)
class IdentifyServer:
    """Tells each peer who we are, where we listen, what we speak, and how we see it."""

    public_key: bytes
    transport: Transport
    handlers: Mapping[str, StreamHandler]

    async def __call__(self, stream: Stream) -> None:
        """Serve one stream."""
        observed = b""
        if stream.path != "relayed":
            # Where, not who: the peer knows its id.
            seen = parse_tcp_address(stream.address)
            observed = address_bytes(replace(seen, peer_id=None))
        message = Identify(
            protocol_version="ipfs/0.1.0",
            agent_version=AGENT,
            public_key=KEY_PREFIX + self.public_key,
            listen_addrs=[address_bytes(address) for address in self.transport.addresses],
            observed_addr=observed,
            protocols=sorted(self.handlers),
        ).SerializeToString()
        with trio.fail_after(_SEND_TIMEOUT_S):
            await stream.send_all(framed(message))


async def ask(
    info: ConnectionInfo, open_stream: Callable[[str], Awaitable[Stream]]
) -> Identified | None:
    """What the other end of a connection says of itself and of us; None if it says nothing."""
    try:
        with trio.fail_after(_ASK_TIMEOUT_S):
            stream = await open_stream(IDENTIFY_PROTOCOL)
            try:
                identified = identified_untrusted(info, await _read_untrusted(stream))
                await stream.aclose()
            finally:
                stream.reset()
    except (P2PError, trio.TooSlowError) as exc:
        logger.debug("not_identified peer=%s %r", short(info.peer_id), exc)
        return None
    return identified


async def _read_untrusted(stream: Stream) -> bytes:
    return await read_framed_untrusted(
        stream, bytes_max=MESSAGE_BYTES_MAX, what="an identify message"
    )


def identified_untrusted(info: ConnectionInfo, data: bytes) -> Identified:
    """What an identify message says; raises MessageInvalid if it is none.

    Addresses of kinds that we do not dial, and what is beyond our limits, are left out. The peer
    id is the proven one, whatever key the message holds.
    """
    try:
        message = Identify.FromString(data)
    except DecodeError as exc:
        raise MessageInvalid("an identify message is no protobuf") from exc
    return Identified(
        peer_id=info.peer_id,
        observed=_if_valid(tcp_address_of_untrusted, message.observed_addr),
        protocols=frozenset(
            one for one in list(message.protocols)[:PROTOCOLS_MAX] if len(one) <= _TEXT_MAX
        ),
        listening=tuple(
            address
            for raw in list(message.listen_addrs)[:LISTENING_MAX]
            if (address := _if_valid(address_of_untrusted, raw)) is not None
        ),
        agent="".join(c for c in message.agent_version[:_TEXT_MAX] if c.isprintable()),
    )


def _if_valid(parse: Callable[[bytes], AnyAddress], raw: bytes) -> AnyAddress | None:
    try:
        return parse(raw)
    except MessageInvalid:
        return None
