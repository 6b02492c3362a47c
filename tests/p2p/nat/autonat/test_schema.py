"""AutoNAT's messages: the same bytes as libp2p's, recorded ones, and bytes that are none."""

from __future__ import annotations

import random

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.host.autonat.pb.autonat_pb2 import Message
from multiaddr import Multiaddr

from p2p import Identity, MessageInvalid
from p2p.address import TcpAddress
from p2p.nat.autonat.schema import (
    DialRequest,
    DialResponse,
    Status,
    decode_request_untrusted,
    decode_response_untrusted,
    encode_request,
    encode_response,
)

PEER = Identity.generate(random.Random(1)).peer_id
addresses = st.builds(
    TcpAddress,
    st.just("ip4"),
    st.builds("{}.{}.{}.{}".format, *[st.integers(0, 255)] * 4),
    st.integers(0, 65_535),
)


@given(st.lists(addresses, max_size=8).map(tuple))
def test_a_request_is_that_of_libp2p(wanted: tuple[TcpAddress, ...]) -> None:
    data = encode_request(DialRequest(PEER, wanted))
    theirs = Message.FromString(data)
    assert theirs.type == Message.DIAL
    assert base58.b58encode(theirs.dial.peer.id).decode() == PEER
    assert [str(Multiaddr(raw)) for raw in theirs.dial.peer.addrs] == [str(one) for one in wanted]
    assert decode_request_untrusted(data) == DialRequest(PEER, wanted)
    assert decode_request_untrusted(theirs.SerializeToString()) == DialRequest(PEER, wanted)


@given(st.sampled_from(Status), st.none() | addresses)
def test_a_response_is_that_of_libp2p(status: Status, address: TcpAddress | None) -> None:
    data = encode_response(DialResponse(status, address))
    theirs = Message.FromString(data)
    assert theirs.type == Message.DIAL_RESPONSE
    assert theirs.dialResponse.status == status
    again = decode_response_untrusted(theirs.SerializeToString())
    assert again == decode_response_untrusted(data) == DialResponse(status, address)


def test_recorded_bytes() -> None:
    request = encode_request(DialRequest(PEER, (TcpAddress("ip4", "5.6.7.8", 4001),)))
    peer_bytes = base58.b58decode(PEER).hex()
    assert request.hex() == f"080012340a320a26{peer_bytes}12080405060708060fa1"
    answer = encode_response(DialResponse(Status.OK, TcpAddress("ip4", "5.6.7.8", 4001)))
    assert answer.hex() == "08011a0c08001a080405060708060fa1"
    assert encode_response(DialResponse(Status.DIAL_REFUSED)).hex() == "08011a020865"


def test_addresses_of_other_kinds_are_left_out() -> None:
    message = Message(type=Message.DIAL)
    message.dial.peer.id = base58.b58decode(PEER)
    for text in ("/ip4/5.6.7.8/udp/4001/quic-v1", "/ip4/5.6.7.8/tcp/4001"):
        message.dial.peer.addrs.append(Multiaddr(text).to_bytes())
    message.dial.peer.addrs.append(b"garbage")
    request = decode_request_untrusted(message.SerializeToString())
    assert request.addresses == (TcpAddress("ip4", "5.6.7.8", 4001),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 20,
        encode_response(DialResponse(Status.OK)),
        bytes.fromhex("0800"),
        bytes.fromhex("08001200"),
        bytes.fromhex("080012020a00"),
        bytes.fromhex("080012040a020a00"),
        bytes.fromhex("0800" + "12460a440a42" + "00" * 66),
        # More addresses than anybody has.
        encode_request(DialRequest(PEER, (TcpAddress("ip4", "5.6.7.8", 4001),) * 100)),
    ],
)
def test_what_is_no_request(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        decode_request_untrusted(data)


@pytest.mark.parametrize("data", [b"", b"\x08\x01", encode_request(DialRequest(PEER, ()))])
def test_what_is_no_response(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        decode_response_untrusted(data)


@given(st.binary(max_size=100))
def test_any_bytes_raise_one_error_only(data: bytes) -> None:
    for decode in (decode_request_untrusted, decode_response_untrusted):
        try:
            decode(data)
        except MessageInvalid:
            continue
