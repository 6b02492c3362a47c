"""DCUtR's messages: round trips, recorded bytes, and bytes that are none."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from p2p import MessageInvalid
from p2p.address import TcpAddress, parse_tcp_address
from p2p.binary_address import address_bytes
from p2p.dial.dcutr import (
    MESSAGE_BYTES_MAX,
    OFFERED_MAX,
    PunchMessage,
    PunchType,
    decode_untrusted,
    encode,
    framed,
    receive_untrusted,
)

HOME, OFFICE = TcpAddress("ip4", "5.6.7.8", 4001), TcpAddress("ip6", "2001:db8::1", 443)
ports = st.integers(0, 65_535)
addresses = st.one_of(
    st.builds(TcpAddress, st.just("ip4"), st.ip_addresses(v=4).map(str), ports),
    st.builds(TcpAddress, st.just("ip6"), st.ip_addresses(v=6).map(str), ports),
)
messages = st.builds(
    PunchMessage,
    type=st.sampled_from(PunchType),
    addresses=st.lists(addresses, max_size=8, unique=True).map(tuple),
    try_number=st.none() | st.integers(1, 3),
)


def place(address: TcpAddress) -> tuple[object, int]:
    """Where it is, however its host is spelt."""
    return ipaddress.ip_address(address.host), address.port


class Bytes:
    """Reads exactly, as a stream does."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def receive_exactly(self, size_bytes: int) -> bytes:
        part, self.data = self.data[:size_bytes], self.data[size_bytes:]
        assert len(part) == size_bytes
        return part


@given(messages)
def test_round_trips(message: PunchMessage) -> None:
    assert decode_untrusted(encode(message)) == message


async def test_recorded_bytes() -> None:
    connect = PunchMessage(type=PunchType.CONNECT, addresses=(HOME, OFFICE), try_number=1)
    recorded = bytes.fromhex(
        "2608641208" "0405060708060fa1" "1214" "2920010db8000000000000000000000001" "0601bb"
        "88e80701"
    )  # fmt: skip
    assert framed(connect) == recorded
    reader = Bytes(recorded + b"more")
    assert await receive_untrusted(reader, PunchType.CONNECT) == connect
    assert reader.data == b"more"
    assert framed(PunchMessage(type=PunchType.SYNC)) == bytes.fromhex("0308ac02")


@settings(max_examples=25)
@given(messages)
def test_py_libp2p_reads_and_writes_the_same(message: PunchMessage) -> None:
    theirs = HolePunch.FromString(encode(message))
    assert theirs.type == message.type
    offered = [parse_tcp_address(str(Multiaddr(one))) for one in theirs.ObsAddrs]
    assert [place(one) for one in offered] == [place(one) for one in message.addresses]
    written = HolePunch(
        type=int(message.type),
        ObsAddrs=[Multiaddr(str(one)).to_bytes() for one in message.addresses],
    ).SerializeToString()
    read = decode_untrusted(written)
    assert (read.type, read.addresses) == (message.type, message.addresses)
    assert read.try_number is None


@pytest.mark.parametrize(
    "other",
    [
        "/ip4/5.6.7.8/udp/4001/quic-v1",
        "/ip4/5.6.7.8/tcp/4001/ws",
        "/dns4/example.org/tcp/4001",
        "/ip4/5.6.7.8",
        "/ip4/5.6.7.8/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit",
    ],
)
def test_other_kinds_of_addresses_are_left_out(other: str) -> None:
    written = HolePunch(
        type=HolePunch.CONNECT, ObsAddrs=[Multiaddr(other).to_bytes(), address_bytes(HOME)]
    ).SerializeToString()
    assert decode_untrusted(written).addresses == (HOME,)


def test_no_more_addresses_than_a_message_is_good_for() -> None:
    several = tuple(TcpAddress("ip4", "5.6.7.8", port) for port in range(1, 100))
    raw = HolePunch(type=HolePunch.CONNECT, ObsAddrs=map(address_bytes, several[:60]))
    assert decode_untrusted(raw.SerializeToString()).addresses == several[:OFFERED_MAX]
    message = PunchMessage(type=PunchType.CONNECT, addresses=several)
    assert decode_untrusted(encode(message)).addresses == several[:OFFERED_MAX]
    assert len(framed(message)) < MESSAGE_BYTES_MAX


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    try:
        message = decode_untrusted(data)
    except MessageInvalid:
        return
    assert decode_untrusted(encode(message)) == message


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x00", "neither CONNECT nor SYNC"),
        (b"\x81\x20" + bytes(4097), "too long"),
        (b"\xff\xff\xff\x7f", "too long"),
        (b"\x02\x08\x65", "neither CONNECT nor SYNC"),
        (b"\x03\x08\xac\x02", "SYNC came where CONNECT was due"),
        (b"\x02\x08\x80", "no valid number"),
        (b"\x04\x12\x09\x08\x64", "cut off"),
        (b"\x04\x08\x64\x10\x01", "holds no bytes"),
    ],
)
async def test_what_is_no_message(data: bytes, what: str) -> None:
    with pytest.raises(MessageInvalid, match=what):
        await receive_untrusted(Bytes(data), PunchType.CONNECT)
