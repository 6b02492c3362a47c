"""The messages of DCUtR, direct connection upgrade through relay: CONNECT and SYNC (core).

Source: libp2p specification, relay/DCUtR. Each message is a protobuf behind a varint length. Ours
say in a field that foreign peers skip which try they belong to; so both sides know that the other
is of our kind, and keep their parts in every try.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from p2p.address import TcpAddress
from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteReader
from p2p.relay.protobuf import (
    bytes_untrusted,
    field,
    fields_untrusted,
    number_untrusted,
    read_varint_untrusted,
    varint,
)

DCUTR_PROTOCOL = "/libp2p/dcutr"
MESSAGE_BYTES_MAX = 4_096
"""Source: libp2p specification, relay/DCUtR."""
OFFERED_MAX = 32
"""Addresses of one message that are read; what is dialed is less."""
_LENGTH_BYTES_MAX = 2
_ADDRESS_BYTES_MAX = 256
_TRY_FIELD = 16_001
_IP4, _TCP, _IP6 = 4, 6, 41
_HOST_BYTES = {_IP4: 4, _IP6: 16}


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
    addresses = b"".join(field(2, binary(one)) for one in message.addresses[:OFFERED_MAX])
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
    data = encode(message)
    assert len(data) <= MESSAGE_BYTES_MAX
    return varint(len(data)) + data


async def receive_untrusted(reader: ByteReader, expected: PunchType) -> PunchMessage:
    """The next message, which must be of this type; raises MessageInvalid."""
    size = 0
    for index in range(_LENGTH_BYTES_MAX):
        byte = (await reader.receive_exactly(1))[0]
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            break
    else:
        raise MessageInvalid("a DCUtR message is too long")
    if not 0 < size <= MESSAGE_BYTES_MAX:
        raise MessageInvalid("a DCUtR message is empty or too long")
    message = decode_untrusted(await reader.receive_exactly(size))
    if message.type != expected:
        raise MessageInvalid(f"{message.type.name} came where {expected.name} was due")
    return message


def binary(address: TcpAddress) -> bytes:
    """The binary multiaddress of an IPv4 or IPv6 address and a TCP port."""
    ip = ipaddress.ip_address(address.host)
    code = _IP4 if ip.version == 4 else _IP6
    return varint(code) + ip.packed + varint(_TCP) + address.port.to_bytes(2, "big")


def _address_untrusted(data: bytes) -> TcpAddress | None:
    """The address, or None for one of a kind that we do not punch to."""
    if len(data) > _ADDRESS_BYTES_MAX:
        return None
    try:
        code, position = read_varint_untrusted(data, 0)
        size = _HOST_BYTES.get(code)
        if size is None:
            return None
        host = data[position : position + size]
        code, position = read_varint_untrusted(data, position + size)
        port = data[position : position + 2]
    except MessageInvalid:
        return None
    if code != _TCP or len(port) != 2 or len(data) > position + 2:
        return None
    ip = ipaddress.ip_address(host)
    return TcpAddress("ip4" if ip.version == 4 else "ip6", str(ip), int.from_bytes(port, "big"))


def punchable(addresses: Iterable[TcpAddress]) -> tuple[TcpAddress, ...]:
    """Those that a message can carry, without peer id, each once."""
    kept = (one for one in addresses if one.kind in ("ip4", "ip6"))
    return tuple(dict.fromkeys(TcpAddress(one.kind, one.host, one.port) for one in kept))
