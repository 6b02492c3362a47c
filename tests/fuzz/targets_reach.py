"""Targets of reach: what peers say that they see, and what they ask to have dialed."""

from __future__ import annotations

from typing import cast

from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p import MessageInvalid
from p2p.address import CircuitAddress, TcpAddress
from p2p.binary_address import address_bytes, address_of_untrusted, tcp_address_of_untrusted
from p2p.host.identify import (
    LISTENING_MAX,
    PROTOCOLS_MAX,
    _read_untrusted,
    identified_untrusted,
)
from p2p.host.stream import Stream
from p2p.host.transport import ConnectionInfo
from p2p.nat.autonat.schema import (
    DialRequest,
    DialResponse,
    Status,
    decode_request_untrusted,
    decode_response_untrusted,
    encode_request,
    encode_response,
    read_message_untrusted,
)
from p2p.protobuf import framed
from tests.fuzz.known import ALICE
from tests.fuzz.target import EndOfInput, InputStream, Target, finish

ADDRESS = TcpAddress("ip4", "5.6.7.8", 4001)
RELAYED = CircuitAddress(ADDRESS.of(ALICE.peer_id))
REQUEST = DialRequest(ALICE.peer_id, (ADDRESS, TcpAddress("dns6", "example.org", 443)))
INFO = ConnectionInfo(ALICE.peer_id, str(ADDRESS), "direct", True, 0.0, "/noise")
IDENTIFY = Identify(
    agent_version="test",
    protocols=["/one/1", "/two/1"],
    listen_addrs=[address_bytes(ADDRESS), address_bytes(RELAYED)],
    observed_addr=address_bytes(ADDRESS),
).SerializeToString()


def run_address(data: bytes) -> None:
    try:
        address = address_of_untrusted(data)
    except MessageInvalid:
        return
    assert address_of_untrusted(address_bytes(address)) == address
    try:
        assert tcp_address_of_untrusted(data) == address
    except MessageInvalid:
        assert isinstance(address, CircuitAddress)


def run_identify(data: bytes) -> None:
    try:
        told = identified_untrusted(INFO, data)
    except MessageInvalid:
        return
    assert told.peer_id == ALICE.peer_id
    assert len(told.protocols) <= PROTOCOLS_MAX
    assert len(told.listening) <= LISTENING_MAX


def run_request(data: bytes) -> None:
    try:
        request = decode_request_untrusted(data)
    except MessageInvalid:
        return
    assert decode_request_untrusted(encode_request(request)) == request


def run_response(data: bytes) -> None:
    try:
        response = decode_response_untrusted(data)
    except MessageInvalid:
        return
    assert decode_response_untrusted(encode_response(response)) == response


def run_framed(data: bytes) -> None:
    try:
        message = finish(read_message_untrusted(InputStream(data)))
    except (MessageInvalid, EndOfInput):
        return
    assert message in data


def run_identify_framed(data: bytes) -> None:
    try:
        message = finish(_read_untrusted(cast(Stream, InputStream(data))))
    except (MessageInvalid, EndOfInput):
        return
    assert message in data


TARGETS = (
    Target(
        name="reach.identify-framed",
        run=run_identify_framed,
        seeds=(framed(IDENTIFY), framed(b""), b"\xff\xff\xff\xff\x0f"),
        covers=("p2p.host.identify._read_untrusted",),
    ),
    Target(
        name="reach.address",
        run=run_address,
        seeds=(address_bytes(ADDRESS), address_bytes(RELAYED)),
        covers=(
            "p2p.binary_address.address_of_untrusted",
            "p2p.binary_address.tcp_address_of_untrusted",
            "p2p.binary_address._part_untrusted",
        ),
    ),
    Target(
        name="reach.identify",
        run=run_identify,
        seeds=(IDENTIFY, b""),
        covers=("p2p.host.identify.identified_untrusted",),
    ),
    Target(
        name="reach.request",
        run=run_request,
        seeds=(encode_request(REQUEST), encode_request(DialRequest(ALICE.peer_id, ()))),
        covers=("p2p.nat.autonat.schema.decode_request_untrusted",),
    ),
    Target(
        name="reach.response",
        run=run_response,
        seeds=(
            encode_response(DialResponse(Status.OK, ADDRESS)),
            encode_response(DialResponse(Status.DIAL_ERROR)),
        ),
        covers=("p2p.nat.autonat.schema.decode_response_untrusted",),
    ),
    Target(
        name="reach.framed",
        run=run_framed,
        seeds=(framed(encode_request(REQUEST)), framed(b""), b"\xff\xff\xff\xff\x0f"),
        covers=("p2p.nat.autonat.schema.read_message_untrusted",),
    ),
)
