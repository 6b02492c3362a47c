"""Multiaddresses as bytes: the same as py-multiaddr's, and hostile bytes raise one error only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from p2p import Identity, MessageInvalid
from p2p.address import parse_address
from p2p.binary_address import (
    ADDRESS_BYTES_MAX,
    address_bytes,
    address_of_untrusted,
    tcp_address_of_untrusted,
)

PEER = Identity.generate(random.Random(1)).peer_id
RELAY = Identity.generate(random.Random(2)).peer_id


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/1.2.3.4/tcp/4001",
        f"/ip4/1.2.3.4/tcp/65535/p2p/{PEER}",
        "/ip6/2001:db8::1/tcp/1",
        "/dns/peer.example.org/tcp/443",
        "/dns4/peer.example.org/tcp/443",
        f"/dns6/peer.example.org/tcp/443/p2p/{PEER}",
        f"/ip4/1.2.3.4/tcp/4001/p2p/{RELAY}/p2p-circuit",
        f"/ip6/::1/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_the_same_bytes_as_elsewhere(text: str) -> None:
    address = parse_address(text)
    assert address_bytes(address) == Multiaddr(text).to_bytes()
    assert address_of_untrusted(address_bytes(address)) == address


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\x01\x02\x03",
        Multiaddr("/ip4/1.2.3.4/udp/4001/quic-v1").to_bytes(),
        Multiaddr("/ip4/1.2.3.4").to_bytes(),
        Multiaddr("/tcp/4001").to_bytes(),
        b"\x35\x03a b\x06\x00\x01",
        b"\x35\xff\x01" + b"a" * 255 + b"\x06\x00\x01",
        b"\x35\x02\xff\xff\x06\x00\x01",
        b"\x04\x01\x02\x03\x04\x06\x00\x01\xa5\x03\x7f" + b"x" * 127,
        b"\x04" + bytes(ADDRESS_BYTES_MAX),
        b"\xff" * 11,
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        address_of_untrusted(data)


def test_a_circuit_is_no_tcp_address() -> None:
    with pytest.raises(MessageInvalid, match="relay"):
        tcp_address_of_untrusted(
            address_bytes(parse_address(f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY}/p2p-circuit"))
        )


@given(st.binary(max_size=64))
def test_any_bytes_raise_one_error_only(data: bytes) -> None:
    try:
        address = address_of_untrusted(data)
    except MessageInvalid:
        return
    assert address_of_untrusted(address_bytes(address)) == address
