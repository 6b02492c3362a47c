"""Targets of circuits: the messages of relays, of peers that reserve there, and of upgrades."""

from __future__ import annotations

import random

from p2p import MessageInvalid, encode
from p2p.address import TcpAddress
from p2p.dht import Entry
from p2p.dial import dcutr
from p2p.protobuf import bytes_untrusted, fields_untrusted, framed
from p2p.relay.directory import RelayRecord, found_untrusted
from p2p.relay.keeper import _dialable_untrusted
from p2p.relay.schema import (
    CircuitLimit,
    Hop,
    Reservation,
    Stop,
    check_voucher_untrusted,
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
    voucher,
)
from tests.fuzz.known import ALICE, BOB
from tests.fuzz.target import EndOfInput, InputStream, Target, finish

LIMIT = CircuitLimit(duration_s=60, bytes_each_way=1_000)
HOP = Hop(
    type=2,
    peer_id=ALICE.peer_id,
    reservation=Reservation(expires_at_s=5, addresses=(b"\x04\x7f\0\0\1\x06\0\1",), voucher=b"v"),
    limit=LIMIT,
    status=100,
)
NOW_S = 1_800_000_000.0
VOUCHER = voucher(ALICE, BOB.peer_id, int(NOW_S) + 60)
VOUCHER_PAYLOAD = bytes_untrusted(fields_untrusted(VOUCHER), 3) or b"none"
STOP = Stop(type=0, peer_id=ALICE.peer_id, limit=LIMIT, status=100)

CONNECT = dcutr.PunchMessage(
    type=dcutr.PunchType.CONNECT,
    addresses=(TcpAddress("ip4", "1.2.3.4", 1), TcpAddress("ip6", "2001:db8::1", 2)),
    try_number=1,
)


def run_hop(data: bytes) -> None:
    try:
        message = decode_hop_untrusted(data)
    except MessageInvalid:
        return
    # What was understood can be said again, and is understood the same.
    assert decode_hop_untrusted(encode_hop(message)) == message


def run_stop(data: bytes) -> None:
    try:
        message = decode_stop_untrusted(data)
    except MessageInvalid:
        return
    assert decode_stop_untrusted(encode_stop(message)) == message


def run_framed(data: bytes) -> None:
    try:
        message = finish(read_message_untrusted(InputStream(data)))
    except (MessageInvalid, EndOfInput):
        return
    assert message in data


def run_dcutr(data: bytes) -> None:
    try:
        message = dcutr.decode_untrusted(data)
    except MessageInvalid:
        return
    assert dcutr.decode_untrusted(dcutr.encode(message)) == message


def run_dcutr_framed(data: bytes) -> None:
    for kind in dcutr.PunchType:
        try:
            message = finish(dcutr.receive_untrusted(InputStream(data), kind))
        except (MessageInvalid, EndOfInput):
            continue
        assert message.type is kind


def run_voucher(data: bytes) -> None:
    try:
        check_voucher_untrusted(data, ALICE.peer_id, BOB.peer_id, NOW_S)
    except MessageInvalid:
        return
    # Only what alice has signed for bob passes; the envelope around it may differ.
    assert VOUCHER_PAYLOAD in data


def run_directory(data: bytes) -> None:
    entries = {"any": Entry(data, 60.0, ALICE.peer_id, 1)}
    for peer_id, texts in found_untrusted(entries, BOB.peer_id, random.Random(1)).items():
        for address in _dialable_untrusted(peer_id, texts):
            assert address.peer_id == ALICE.peer_id
            assert address.port > 0


_FIELDS = (
    "p2p.protobuf.read_varint_untrusted",
    "p2p.protobuf.fields_untrusted",
    "p2p.protobuf.number_untrusted",
    "p2p.protobuf.bytes_untrusted",
    "p2p.relay.schema._type_untrusted",
    "p2p.relay.schema._peer_untrusted",
    "p2p.relay.schema._limit_untrusted",
    "p2p.relay.schema._reservation_untrusted",
)

TARGETS = (
    Target(
        name="relay.hop",
        run=run_hop,
        seeds=(encode_hop(HOP), encode_hop(Hop(type=0))),
        covers=("p2p.relay.schema.decode_hop_untrusted", *_FIELDS),
    ),
    Target(
        name="relay.stop",
        run=run_stop,
        seeds=(encode_stop(STOP), encode_stop(Stop(type=1, status=204))),
        covers=("p2p.relay.schema.decode_stop_untrusted",),
    ),
    Target(
        name="relay.framed",
        run=run_framed,
        seeds=(framed(encode_hop(HOP)), framed(b""), b"\xff\xff\xff\xff\x0f"),
        covers=(
            "p2p.relay.schema.read_message_untrusted",
            "p2p.protobuf.read_framed_untrusted",
        ),
    ),
    Target(
        name="relay.dcutr",
        run=run_dcutr,
        seeds=(dcutr.encode(CONNECT), dcutr.encode(dcutr.PunchMessage(type=dcutr.PunchType.SYNC))),
        covers=("p2p.dial.dcutr.decode_untrusted", "p2p.dial.dcutr._address_untrusted"),
    ),
    Target(
        name="relay.dcutr_framed",
        run=run_dcutr_framed,
        seeds=(dcutr.framed(CONNECT), b"\xff\xff\xff\xff\x0f"),
        covers=("p2p.dial.dcutr.receive_untrusted",),
    ),
    Target(
        name="relay.voucher",
        run=run_voucher,
        seeds=(VOUCHER, voucher(ALICE, BOB.peer_id, 0), b""),
        covers=("p2p.relay.schema.check_voucher_untrusted",),
    ),
    Target(
        name="relay.directory",
        run=run_directory,
        seeds=(encode(RelayRecord(("/ip4/5.6.7.8/tcp/1", "/ip6/::1/tcp/2"))), b"\xc1"),
        covers=(
            "p2p.relay.directory.found_untrusted",
            "p2p.relay.keeper._dialable_untrusted",
        ),
    ),
)
