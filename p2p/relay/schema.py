"""The messages of circuit relay v2: reserve, connect, stop, and the signed voucher.

Source: libp2p specification, relay/circuit-v2. Each message is a protobuf behind a varint length.

    hop    client to relay: RESERVE, or CONNECT to a peer that has reserved; answered by STATUS
    stop   relay to the peer that has reserved: CONNECT from a peer; answered by STATUS
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import base58

from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteReader
from p2p.identity import Identity, parse_peer_id_untrusted, verify_signature
from p2p.peer_id import PeerId
from p2p.protobuf import (
    bytes_untrusted,
    field,
    fields_untrusted,
    number_untrusted,
    read_framed_untrusted,
    varint,
)

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"

MESSAGE_BYTES_MAX = 4_096
"""As the specification says."""
EXCHANGE_TIMEOUT_S = 10.0
"""How long an exchange of messages may take, on either side."""
CLOCK_SKEW_S_MAX = 600.0
"""Clocks that differ by minutes do no harm."""
ADDRESSES_MAX = 16
_ADDRESS_BYTES_MAX = 256
_PEER_ID_BYTES_MAX = 64

_VOUCHER_DOMAIN = b"libp2p-relay-rsvp"
_VOUCHER_TYPE = bytes([0x03, 0x02])
_ED25519_KEY = bytes([0x08, 0x01, 0x12, 0x20])
"""The protobuf of an Ed25519 public key, up to its 32 bytes."""


class HopType(IntEnum):
    """What a hop message is."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a stop message is."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """How a request ended."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, kw_only=True)
class CircuitLimit:
    """What one circuit may carry; None for no limit."""

    duration_s: int | None = None
    bytes_each_way: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A relay's promise to pass circuits on to us."""

    expires_at_s: int
    """Seconds since 1970, on the relay's clock."""
    addresses: tuple[bytes, ...] = ()
    """Where the relay can be dialed, as binary multiaddresses."""
    voucher: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Hop:
    """A message between a client and a relay."""

    type: int
    peer_id: PeerId | None = None
    reservation: Reservation | None = None
    limit: CircuitLimit | None = None
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A message between a relay and a peer that has reserved there."""

    type: int
    peer_id: PeerId | None = None
    limit: CircuitLimit | None = None
    status: int | None = None


def encode_hop(message: Hop) -> bytes:
    """The bytes of a hop message, without its length."""
    return (
        field(1, message.type)
        + field(2, _peer(message.peer_id))
        + field(3, _reservation(message.reservation))
        + field(4, _limit(message.limit))
        + field(5, message.status)
    )


def decode_hop_untrusted(data: bytes) -> Hop:
    """A hop message; raises MessageInvalid."""
    fields = fields_untrusted(data)
    return Hop(
        type=_type_untrusted(number_untrusted(fields, 1)),
        peer_id=_peer_untrusted(bytes_untrusted(fields, 2)),
        reservation=_reservation_untrusted(bytes_untrusted(fields, 3)),
        limit=_limit_untrusted(bytes_untrusted(fields, 4)),
        status=number_untrusted(fields, 5),
    )


def encode_stop(message: Stop) -> bytes:
    """The bytes of a stop message, without its length."""
    return (
        field(1, message.type)
        + field(2, _peer(message.peer_id))
        + field(3, _limit(message.limit))
        + field(4, message.status)
    )


def decode_stop_untrusted(data: bytes) -> Stop:
    """A stop message; raises MessageInvalid."""
    fields = fields_untrusted(data)
    return Stop(
        type=_type_untrusted(number_untrusted(fields, 1)),
        peer_id=_peer_untrusted(bytes_untrusted(fields, 2)),
        limit=_limit_untrusted(bytes_untrusted(fields, 3)),
        status=number_untrusted(fields, 4),
    )


async def read_message_untrusted(reader: ByteReader) -> bytes:
    """The next message, and not a byte of what follows; raises MessageInvalid."""
    return await read_framed_untrusted(reader, bytes_max=MESSAGE_BYTES_MAX, what="a relay message")


def voucher(relay: Identity, peer_id: PeerId, expires_at_s: int) -> bytes:
    """The relay's signed word that the peer has reserved until then: a libp2p envelope."""
    payload = (
        field(1, base58.b58decode(relay.peer_id))
        + field(2, base58.b58decode(peer_id))
        + field(3, expires_at_s)
    )
    parts = (_VOUCHER_DOMAIN, _VOUCHER_TYPE, payload)
    signed = b"".join(varint(len(part)) + part for part in parts)
    return (
        field(1, _ED25519_KEY + relay.public_key)
        + field(2, _VOUCHER_TYPE)
        + field(3, payload)
        + field(5, relay.sign(signed))
    )


def check_voucher_untrusted(data: bytes, relay: PeerId, holder: PeerId, now_s: float) -> None:
    """Whether the relay's signed word is meant for this peer, and holds still.

    Args:
        now_s: seconds since 1970; a relay's clock may be off by CLOCK_SKEW_S_MAX.

    Raises:
        MessageInvalid: it is not signed by this relay, is another peer's, or has expired.
    """
    envelope = fields_untrusted(data)
    kind, payload = bytes_untrusted(envelope, 2), bytes_untrusted(envelope, 3)
    signature = bytes_untrusted(envelope, 5)
    if kind is None or payload is None or signature is None:
        raise MessageInvalid("a voucher lacks a part")
    parts = (_VOUCHER_DOMAIN, kind, payload)
    signed = b"".join(varint(len(part)) + part for part in parts)
    # The key in the envelope is not needed: the relay has proved which one is its own.
    if kind != _VOUCHER_TYPE or not verify_signature(relay, signed, signature):
        raise MessageInvalid("a voucher that the relay did not sign")
    fields = fields_untrusted(payload)
    if bytes_untrusted(fields, 1) != base58.b58decode(relay):
        raise MessageInvalid("a voucher of another relay")
    if bytes_untrusted(fields, 2) != base58.b58decode(holder):
        raise MessageInvalid("a voucher of another peer")
    if (number_untrusted(fields, 3) or 0) < now_s - CLOCK_SKEW_S_MAX:
        raise MessageInvalid("a voucher that has expired")


def _type_untrusted(value: int | None) -> int:
    if value is None:
        raise MessageInvalid("a relay message does not say what it is")
    return value


def _peer(peer_id: PeerId | None) -> bytes | None:
    return None if peer_id is None else field(1, base58.b58decode(peer_id))


def _peer_untrusted(data: bytes | None) -> PeerId | None:
    if data is None:
        return None
    raw = bytes_untrusted(fields_untrusted(data), 1)
    # Base 58 takes quadratic time.
    if raw is None or len(raw) > _PEER_ID_BYTES_MAX:
        raise MessageInvalid("a relay message names no peer")
    return parse_peer_id_untrusted(base58.b58encode(raw).decode())


def _limit(limit: CircuitLimit | None) -> bytes | None:
    if limit is None:
        return None
    return field(1, limit.duration_s) + field(2, limit.bytes_each_way)


def _limit_untrusted(data: bytes | None) -> CircuitLimit | None:
    if data is None:
        return None
    fields = fields_untrusted(data)
    # Zero stands for no limit.
    return CircuitLimit(
        duration_s=number_untrusted(fields, 1) or None,
        bytes_each_way=number_untrusted(fields, 2) or None,
    )


def _reservation(reservation: Reservation | None) -> bytes | None:
    if reservation is None:
        return None
    return (
        field(1, reservation.expires_at_s)
        + b"".join(field(2, address) for address in reservation.addresses[:ADDRESSES_MAX])
        + field(3, reservation.voucher)
    )


def _reservation_untrusted(data: bytes | None) -> Reservation | None:
    if data is None:
        return None
    fields = fields_untrusted(data)
    expires_at_s = number_untrusted(fields, 1)
    if expires_at_s is None:
        raise MessageInvalid("a reservation without its end")
    return Reservation(
        expires_at_s=expires_at_s,
        addresses=tuple(
            value
            for value in fields.get(2, [])[:ADDRESSES_MAX]
            if isinstance(value, bytes) and len(value) <= _ADDRESS_BYTES_MAX
        ),
        voucher=bytes_untrusted(fields, 3),
    )
