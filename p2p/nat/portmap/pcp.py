"""PCP: its messages MAP and ANNOUNCE, read and written, for IPv4 and TCP (core).

Source: D. Wing (ed.) et al., RFC 6887, "Port Control Protocol (PCP)", 2013, §7, §8, §11, §14.
"""

from __future__ import annotations

import ipaddress
import struct

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap.answers import LIFETIME_S_MIN, Failure, Granted, bounded_lifetime_s

VERSION = 2
NONCE_SIZE_BYTES = 12
_SIZE_BYTES_MAX = 1_100
_ANNOUNCE, _MAP, _ANSWER = 0, 1, 128
_TCP = 6
_REQUEST = struct.Struct("!BBHI16s")
_RESPONSE = struct.Struct("!BBBBII12x")
_MAP_BODY = struct.Struct("!12sB3xHH16s")
_UNSUPPORTED_VERSION, _UNSUPPORTED_OPCODE = 1, 4
# Source: RFC 6887 §7.4.
_REFUSALS = {
    _UNSUPPORTED_VERSION: (Failure.SILENT, "it does not speak this version"),
    2: (Failure.FORBIDDEN, "it is not allowed to this machine"),
    3: (Failure.REFUSED, "it holds our question for malformed"),
    _UNSUPPORTED_OPCODE: (Failure.SILENT, "it does not map ports"),
    7: (Failure.NO_ADDRESS, "it has no outer address yet"),
    8: (Failure.REFUSED, "its table is full"),
    9: (Failure.SILENT, "it does not map TCP"),
    10: (Failure.REFUSED, "this machine has mapped too many ports"),
    11: (Failure.TAKEN, "the port is somebody else's"),
    12: (Failure.REFUSED, "another NAT stands between it and this machine"),
}


def announce_request(local_host: str) -> bytes:
    """Asks for nothing but an answer, which shows that the router speaks PCP."""
    return _REQUEST.pack(VERSION, _ANNOUNCE, 0, 0, _mapped_ip(local_host))


def map_request(
    nonce: bytes, local_host: str, internal_port: int, external_port: int, lifetime_s: int
) -> bytes:
    """Asks for a TCP mapping, this outer port if possible; lifetime 0 takes it back.

    Args:
        nonce: NONCE_SIZE_BYTES random bytes; the same for each renewal, since it proves the owner.
        local_host: our IPv4 address as the router sees it.
    """
    head = _REQUEST.pack(VERSION, _MAP, 0, lifetime_s, _mapped_ip(local_host))
    return head + _MAP_BODY.pack(nonce, _TCP, internal_port, external_port, _mapped_ip("0.0.0.0"))


def parse_announced_untrusted(data: bytes) -> None:
    """Read the answer to announce_request(): returning means that PCP is spoken.

    Raises:
        MessageInvalid: it is no answer.
        RefusedError: the router speaks something older, or says no.
    """
    result, _, _ = _read_header_untrusted(data, _ANNOUNCE)
    if result not in (0, _UNSUPPORTED_OPCODE):
        raise RefusedError(*_refusal(result))


def parse_mapped_untrusted(data: bytes, nonce: bytes, internal_port: int) -> Granted:
    """Read the answer to map_request(); raises like parse_announced_untrusted()."""
    lifetime_s, epoch_s = _read_map_header_untrusted(data, nonce)
    port, packed = _read_body_untrusted(data, nonce, internal_port)
    host = ipaddress.IPv6Address(packed).ipv4_mapped
    if host is None:
        raise MessageInvalid("the router maps an address that is not IPv4")
    if host.is_unspecified:
        raise RefusedError(*_refusal(7))
    if port == 0 or lifetime_s < LIFETIME_S_MIN:
        raise MessageInvalid("the router grants port 0, or next to no time")
    return Granted(str(host), port, bounded_lifetime_s(lifetime_s), epoch_s)


def parse_released_untrusted(data: bytes, nonce: bytes, internal_port: int) -> None:
    """Read the answer to a map_request() of lifetime 0; raises the same."""
    _read_map_header_untrusted(data, nonce)
    _read_body_untrusted(data, nonce, internal_port)


def _read_header_untrusted(data: bytes, operation: int) -> tuple[int, int, int]:
    """Result, lifetime and epoch."""
    if len(data) >= 4 and data[0] == 0 and data[1] & _ANSWER and data[2:4] == b"\0\1":
        # RFC 6887, appendix A: a NAT-PMP router answers like this.
        raise RefusedError(Failure.SILENT.value, "it speaks NAT-PMP only")
    if not _RESPONSE.size <= len(data) <= _SIZE_BYTES_MAX or len(data) % 4:
        raise MessageInvalid("the answer has the wrong length for PCP")
    version, answered, _, result, lifetime_s, epoch_s = _RESPONSE.unpack_from(data)
    if version != VERSION and result == _UNSUPPORTED_VERSION and answered & _ANSWER:
        raise RefusedError(*_refusal(result))
    if version != VERSION or answered != operation + _ANSWER:
        raise MessageInvalid("the answer is not PCP, or to another question")
    return result, lifetime_s, epoch_s


def _read_map_header_untrusted(data: bytes, nonce: bytes) -> tuple[int, int]:
    """Lifetime and epoch of a success; a refusal that has a nonce must have ours."""
    result, lifetime_s, epoch_s = _read_header_untrusted(data, _MAP)
    if result:
        echoed = data[_RESPONSE.size : _RESPONSE.size + NONCE_SIZE_BYTES]
        if echoed and echoed != nonce:
            raise MessageInvalid("the answer has another nonce")
        raise RefusedError(*_refusal(result))
    return lifetime_s, epoch_s


def _read_body_untrusted(data: bytes, nonce: bytes, internal_port: int) -> tuple[int, bytes]:
    """Outer port and address, in answer to our question; options behind them are passed over."""
    if len(data) < _RESPONSE.size + _MAP_BODY.size:
        raise MessageInvalid("the answer is too short for a mapping of PCP")
    echoed, protocol, internal, port, packed = _MAP_BODY.unpack_from(data, _RESPONSE.size)
    if echoed != nonce:
        raise MessageInvalid("the answer has another nonce")
    if protocol != _TCP or internal != internal_port:
        raise MessageInvalid("the router answers about another port")
    return port, packed


def _mapped_ip(host: str) -> bytes:
    """An IPv4 address as PCP writes it: IPv4-mapped IPv6."""
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(host).packed


def _refusal(result: int) -> tuple[str, str]:
    failure, said = _REFUSALS.get(result, (Failure.REFUSED, f"PCP result {result}"))
    return failure.value, said
