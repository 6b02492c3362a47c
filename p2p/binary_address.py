"""Multiaddresses as bytes, as libp2p's own messages carry them (core).

Source: multiformats/multiaddr and its table of protocols. Only the kinds that p2p.address knows;
py-multiaddr raises errors of many kinds on hostile bytes.
"""

from __future__ import annotations

import ipaddress

import base58

from p2p.address import Address, CircuitAddress, TcpAddress, parse_address_untrusted
from p2p.errors import MessageInvalid
from p2p.peer_id import PeerId
from p2p.protobuf import read_varint_untrusted, varint

ADDRESS_BYTES_MAX = 512
_IP4, _TCP, _IP6, _CIRCUIT, _P2P = 4, 6, 41, 290, 421
_NAMES = {53: "dns", 54: "dns4", 55: "dns6"}
_NAME_CODES = {name: code for code, name in _NAMES.items()}
_FIXED_BYTES = {_IP4: 4, _IP6: 16, _TCP: 2, _CIRCUIT: 0}
_PEER_ID_BYTES_MAX = 64
"""Base 58 takes quadratic time."""


def address_bytes(address: Address) -> bytes:
    """The bytes of an address, with its peer ids."""
    if isinstance(address, CircuitAddress):
        return address_bytes(address.relay) + varint(_CIRCUIT) + _peer_bytes(address.peer_id)
    if address.kind in _NAME_CODES:
        name = address.host.encode()
        head = varint(_NAME_CODES[address.kind]) + varint(len(name)) + name
    else:
        code = _IP4 if address.kind == "ip4" else _IP6
        head = varint(code) + ipaddress.ip_address(address.host).packed
    port = varint(_TCP) + address.port.to_bytes(2, "big")
    return head + port + _peer_bytes(address.peer_id)


def _peer_bytes(peer_id: PeerId | None) -> bytes:
    if peer_id is None:
        return b""
    raw = base58.b58decode(peer_id)
    return varint(_P2P) + varint(len(raw)) + raw


def tcp_address_of_untrusted(data: bytes) -> TcpAddress:
    """The same where no relay can be meant; raises MessageInvalid."""
    address = address_of_untrusted(data)
    if isinstance(address, CircuitAddress):
        raise MessageInvalid("a way through a relay where a TCP address is needed")
    return address


def address_of_untrusted(data: bytes) -> Address:
    """The address that these bytes stand for.

    Raises:
        MessageInvalid: they are none of TCP, nor of a circuit; other kinds (QUIC) count as none.
    """
    if len(data) > ADDRESS_BYTES_MAX:
        raise MessageInvalid("a binary address is too long")
    position = 0
    text = ""
    while position < len(data):
        code, position = read_varint_untrusted(data, position)
        size = _FIXED_BYTES.get(code)
        if code == _P2P or code in _NAMES:
            size, position = read_varint_untrusted(data, position)
        if size is None or position + size > len(data):
            raise MessageInvalid("a binary address is cut off, or of a kind that we do not dial")
        text += _part_untrusted(code, data[position : position + size])
        position += size
    return parse_address_untrusted(text)


def _part_untrusted(code: int, value: bytes) -> str:
    if code == _TCP:
        return f"/tcp/{int.from_bytes(value, 'big')}"
    if code == _IP4:
        return f"/ip4/{ipaddress.IPv4Address(value)}"
    if code == _IP6:
        return f"/ip6/{ipaddress.IPv6Address(value)}"
    if code == _CIRCUIT:
        return "/p2p-circuit"
    if code == _P2P:
        if len(value) > _PEER_ID_BYTES_MAX:
            raise MessageInvalid("a binary address names no peer")
        return f"/p2p/{base58.b58encode(value).decode()}"
    try:
        return f"/{_NAMES[code]}/{value.decode('ascii')}"
    except UnicodeDecodeError as exc:
        raise MessageInvalid("a binary address with a host name that is none") from exc
