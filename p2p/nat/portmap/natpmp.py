"""NAT-PMP: its messages, read and written (core).

Source: S. Cheshire, M. Krochmal, RFC 6886, "NAT Port Mapping Protocol (NAT-PMP)", 2013, §3.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap.answers import LIFETIME_S_MIN, Failure, bounded_lifetime_s

PORT = 5351
"""Where routers listen, for PCP too."""
VERSION = 0
_ADDRESS, _MAP_TCP, _ANSWER = 0, 2, 128
_HEADER = struct.Struct("!BBHI")
_ADDRESS_BODY = struct.Struct("!4s")
_MAP_REQUEST = struct.Struct("!BBHHHI")
_MAP_BODY = struct.Struct("!HHI")
# Source: RFC 6886 §3.5.
_REFUSALS = {
    1: (Failure.SILENT, "it does not speak this version"),
    2: (Failure.FORBIDDEN, "it is switched off, or not allowed to this machine"),
    3: (Failure.NO_ADDRESS, "it has no outer address"),
    4: (Failure.REFUSED, "its table is full"),
    5: (Failure.SILENT, "it does not map ports"),
}


@dataclass(frozen=True)
class OuterAddress:
    """The router's outer IPv4 address, and its epoch."""

    host: str
    epoch_s: int


@dataclass(frozen=True)
class Mapped:
    """The outer port that was granted; its address is asked for apart."""

    port: int
    lifetime_s: int
    epoch_s: int


def address_request() -> bytes:
    """Asks for the outer address."""
    return bytes((VERSION, _ADDRESS))


def map_request(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Asks for a TCP mapping, this outer port if possible; lifetime 0 takes it back."""
    return _MAP_REQUEST.pack(VERSION, _MAP_TCP, 0, internal_port, external_port, lifetime_s)


def parse_address_untrusted(data: bytes) -> OuterAddress:
    """Read the answer to address_request().

    Raises:
        MessageInvalid: it is none.
        RefusedError: the router says no.
    """
    epoch_s = _read_header_untrusted(data, _ADDRESS, _ADDRESS_BODY.size)
    (packed,) = _ADDRESS_BODY.unpack_from(data, _HEADER.size)
    host = ipaddress.IPv4Address(packed)
    if host.is_unspecified:
        raise RefusedError(*_refusal(3))
    return OuterAddress(str(host), epoch_s)


def parse_mapped_untrusted(data: bytes, internal_port: int) -> Mapped:
    """Read the answer to map_request(); raises like parse_address_untrusted()."""
    epoch_s = _read_header_untrusted(data, _MAP_TCP, _MAP_BODY.size)
    internal, external, lifetime_s = _MAP_BODY.unpack_from(data, _HEADER.size)
    if internal != internal_port:
        raise MessageInvalid("the router answers about another port")
    if external == 0 or lifetime_s < LIFETIME_S_MIN:
        raise MessageInvalid("the router grants port 0, or next to no time")
    return Mapped(external, bounded_lifetime_s(lifetime_s), epoch_s)


def parse_released_untrusted(data: bytes, internal_port: int) -> None:
    """Read the answer to a map_request() of lifetime 0; raises like parse_address_untrusted()."""
    _read_header_untrusted(data, _MAP_TCP, _MAP_BODY.size)
    internal, _, _ = _MAP_BODY.unpack_from(data, _HEADER.size)
    if internal != internal_port:
        raise MessageInvalid("the router answers about another port")


def _read_header_untrusted(data: bytes, operation: int, body_size_bytes: int) -> int:
    """The epoch of a success; refusals may come without a body."""
    if len(data) < _HEADER.size:
        raise MessageInvalid("the answer is too short for NAT-PMP")
    version, answered, result, epoch_s = _HEADER.unpack_from(data)
    if version != VERSION or answered != operation + _ANSWER:
        raise MessageInvalid("the answer is not NAT-PMP, or to another question")
    if result:
        raise RefusedError(*_refusal(result))
    if len(data) != _HEADER.size + body_size_bytes:
        raise MessageInvalid("the answer has the wrong length for NAT-PMP")
    return int(epoch_s)


def _refusal(result: int) -> tuple[str, str]:
    failure, said = _REFUSALS.get(result, (Failure.REFUSED, f"NAT-PMP result {result}"))
    return failure.value, said
