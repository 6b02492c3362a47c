"""The messages of DCUtR, direct connection upgrade through relay: CONNECT and SYNC (core).

Source: libp2p specification, relay/DCUtR. Each message is a protobuf behind a varint length. Ours
say in a field that foreign peers skip which try they belong to; so both sides know that the other
is of our kind, and keep their parts in every try.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from p2p import protobuf
from p2p.address import TcpAddress
from p2p.binary_address import address_bytes, tcp_address_of_untrusted
from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteReader
from p2p.protobuf import (
    bytes_untrusted,
    field,
    fields_untrusted,
    number_untrusted,
)

DCUTR_PROTOCOL = "/libp2p/dcutr"
MESSAGE_BYTES_MAX = 4_096
"""Source: libp2p specification, relay/DCUtR."""
OFFERED_MAX = 32
"""Addresses of one message that are read; what is dialed is less."""
_TRY_FIELD = 16_001


class PunchType(IntEnum):
    """What a message is."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, kw_only=True)
class PunchMessage:
    """CONNECT tells where to punch to; SYNC says that it begins."""

    type: PunchType
    addresses: tuple[TcpAddress, ...] = ()
    """TCP addresses of IPv4 and IPv6; what else a peer offers is left out."""
    try_number: int | None = None
    """Which try it is, from 1 on; None from peers that are not of our kind."""


def encode(message: PunchMessage) -> bytes:
    """The bytes of a message, without its length."""
    addresses = b"".join(field(2, address_bytes(one)) for one in message.addresses[:OFFERED_MAX])
    return field(1, message.type) + addresses + field(_TRY_FIELD, message.try_number)


def decode_untrusted(data: bytes) -> PunchMessage:
    """A message; raises MessageInvalid."""
    fields = fields_untrusted(data)
    number = number_untrusted(fields, 1)
    try:
        kind = PunchType(number or 0)
    except ValueError as exc:
        raise MessageInvalid("a DCUtR message is neither CONNECT nor SYNC") from exc
    offered = fields.get(2, [])[:OFFERED_MAX]
    parsed = (_address_untrusted(one) for one in offered if isinstance(one, bytes))
    bytes_untrusted(fields, 2)
    return PunchMessage(
        type=kind,
        addresses=tuple(dict.fromkeys(one for one in parsed if one is not None)),
        try_number=number_untrusted(fields, _TRY_FIELD),
    )


def framed(message: PunchMessage) -> bytes:
    """A message behind its length."""
    return protobuf.framed(encode(message))


async def receive_untrusted(reader: ByteReader, expected: PunchType) -> PunchMessage:
    """The next message, which must be of this type; raises MessageInvalid."""
    data = await protobuf.read_framed_untrusted(
        reader, bytes_max=MESSAGE_BYTES_MAX, what="a DCUtR message"
    )
    message = decode_untrusted(data)
    if message.type != expected:
        raise MessageInvalid(f"{message.type.name} came where {expected.name} was due")
    return message


def _address_untrusted(data: bytes) -> TcpAddress | None:
    """The address, or None for one of a kind that we do not punch to."""
    try:
        address = tcp_address_of_untrusted(data)
    except MessageInvalid:
        return None
    return next(iter(punchable((address,))), None)


def punchable(addresses: Iterable[TcpAddress]) -> tuple[TcpAddress, ...]:
    """Those that a message can carry, without peer id, each once."""
    kept = (one for one in addresses if one.kind in ("ip4", "ip6"))
    return tuple(dict.fromkeys(TcpAddress(one.kind, one.host, one.port) for one in kept))
