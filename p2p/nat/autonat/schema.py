"""The messages of AutoNAT: dial me there, and how it went.

Source: libp2p specification, autonat (version 1). Each message is a protobuf behind its length; the
requester sends DIAL, the server answers with DIAL_RESPONSE, and the stream is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import base58

from p2p.address import TcpAddress
from p2p.binary_address import address_bytes, tcp_address_of_untrusted
from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteReader
from p2p.identity import parse_peer_id_untrusted
from p2p.peer_id import PeerId
from p2p.protobuf import (
    bytes_untrusted,
    field,
    fields_untrusted,
    number_untrusted,
    read_framed_untrusted,
)

AUTONAT_PROTOCOL = "/libp2p/autonat/1.0.0"
MESSAGE_BYTES_MAX = 4_096
"""A peer with more addresses than fit is not asking in earnest."""
SERVER_TIMEOUT_S = 15.0
"""How long a server may take for one stream; it answers when its dials have ended."""
_PEER_ID_BYTES_MAX = 64
_DIAL, _DIAL_RESPONSE = 0, 1

T = TypeVar("T")


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    DIAL_ERROR = 100
    """None of the addresses led to the requester, or none in time."""
    DIAL_REFUSED = 101
    """The server does not dial these, or not now."""
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


@dataclass(frozen=True)
class DialRequest:
    """A peer asks to be dialed at these addresses."""

    peer_id: PeerId
    addresses: tuple[TcpAddress, ...]
    """TCP addresses only; those of other kinds are left out when a request is read."""


@dataclass(frozen=True)
class DialResponse:
    """How it went; what else a server tells is not looked at."""

    status: int
    address: TcpAddress | None = None
    """The one that led to the requester."""


def encode_request(request: DialRequest) -> bytes:
    """The bytes of a DIAL message, without its length."""
    addresses = b"".join(field(2, address_bytes(one)) for one in request.addresses)
    peer = field(1, base58.b58decode(request.peer_id)) + addresses
    return field(1, _DIAL) + field(2, field(1, peer))


def decode_request_untrusted(data: bytes) -> DialRequest:
    """A DIAL message; raises MessageInvalid."""
    fields = fields_untrusted(data)
    if number_untrusted(fields, 1) not in (_DIAL, None):
        raise MessageInvalid("not a request to dial")
    dial = bytes_untrusted(fields, 2)
    peer = None if dial is None else bytes_untrusted(fields_untrusted(dial), 1)
    if peer is None:
        raise MessageInvalid("a request to dial names no peer")
    told = fields_untrusted(peer)
    raw = bytes_untrusted(told, 1)
    # Base 58 takes quadratic time.
    if raw is None or len(raw) > _PEER_ID_BYTES_MAX:
        raise MessageInvalid("a request to dial names no peer")
    addresses = (_if_valid(tcp_address_of_untrusted, one) for one in told.get(2, ()))
    return DialRequest(
        parse_peer_id_untrusted(base58.b58encode(raw).decode()),
        tuple(one for one in addresses if one is not None),
    )


def encode_response(response: DialResponse) -> bytes:
    """The bytes of a DIAL_RESPONSE message, without its length."""
    address = None if response.address is None else address_bytes(response.address)
    body = field(1, response.status) + field(3, address)
    return field(1, _DIAL_RESPONSE) + field(3, body)


def decode_response_untrusted(data: bytes) -> DialResponse:
    """A DIAL_RESPONSE message; raises MessageInvalid."""
    fields = fields_untrusted(data)
    body = bytes_untrusted(fields, 3)
    if number_untrusted(fields, 1) != _DIAL_RESPONSE or body is None:
        raise MessageInvalid("not an answer to a request to dial")
    told = fields_untrusted(body)
    raw = bytes_untrusted(told, 3)
    # Encoders of protobuf 3 leave out a zero, which is OK.
    return DialResponse(
        number_untrusted(told, 1) or Status.OK,
        None if not raw else _if_valid(tcp_address_of_untrusted, raw),
    )


async def read_message_untrusted(reader: ByteReader) -> bytes:
    """The next message, and not a byte of what follows; raises MessageInvalid."""
    return await read_framed_untrusted(
        reader, bytes_max=MESSAGE_BYTES_MAX, what="an AutoNAT message"
    )


def _if_valid(parse: Callable[[bytes], T], raw: int | bytes) -> T | None:
    """What the bytes stand for, or None: newer peers may name addresses that we do not know."""
    if isinstance(raw, int):
        return None
    try:
        return parse(raw)
    except MessageInvalid:
        return None
