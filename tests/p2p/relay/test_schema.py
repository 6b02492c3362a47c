"""The relay's messages: round trips, recorded bytes, and bytes that are none."""

from __future__ import annotations

import random

import base58
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.pb.envelope_pb2 import Envelope
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Voucher

from p2p import Identity, MessageInvalid, verify_signature
from p2p.protobuf import framed, read_varint_untrusted, varint
from p2p.relay.schema import (
    MESSAGE_BYTES_MAX,
    CircuitLimit,
    Hop,
    HopType,
    Reservation,
    Status,
    Stop,
    check_voucher_untrusted,
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
    voucher,
)

RELAY = Identity.generate(random.Random(1))
PEER = Identity.generate(random.Random(2)).peer_id
numbers = st.integers(0, 2**63)
limits = st.none() | st.builds(
    CircuitLimit,
    duration_s=st.none() | st.integers(1, 2**32 - 1),
    bytes_each_way=st.none() | st.integers(1, 2**64 - 1),
)
reservations = st.builds(
    Reservation,
    expires_at_s=numbers,
    addresses=st.lists(st.binary(max_size=64), max_size=4).map(tuple),
    voucher=st.none() | st.binary(max_size=200),
)


class Bytes:
    """Reads exactly, as a stream does."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def receive_exactly(self, size_bytes: int) -> bytes:
        part, self.data = self.data[:size_bytes], self.data[size_bytes:]
        assert len(part) == size_bytes
        return part


@given(st.integers(0, 2), st.booleans(), st.none() | reservations, limits, st.none() | numbers)
def test_hop_round_trip(
    kind: int,
    named: bool,
    reservation: Reservation | None,
    limit: CircuitLimit | None,
    status: int | None,
) -> None:
    message = Hop(
        type=kind,
        peer_id=PEER if named else None,
        reservation=reservation,
        limit=limit,
        status=status,
    )
    assert decode_hop_untrusted(encode_hop(message)) == message


@given(st.integers(0, 1), st.booleans(), limits, st.none() | numbers)
def test_stop_round_trip(
    kind: int, named: bool, limit: CircuitLimit | None, status: int | None
) -> None:
    message = Stop(type=kind, peer_id=PEER if named else None, limit=limit, status=status)
    assert decode_stop_untrusted(encode_stop(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_invalid(data: bytes) -> None:
    for decode in (decode_hop_untrusted, decode_stop_untrusted):
        try:
            decode(data)
        except MessageInvalid:
            continue


def test_recorded_bytes() -> None:
    assert encode_hop(Hop(type=HopType.RESERVE)).hex() == "0800"
    granted = Hop(
        type=HopType.STATUS,
        status=Status.OK,
        reservation=Reservation(expires_at_s=1_800_000_000, addresses=(b"\x04abcd",)),
        limit=CircuitLimit(duration_s=120, bytes_each_way=131_072),
    )
    assert encode_hop(granted).hex() == (
        "08021a0d0880a4a7da0612050461626364220608781080800828" + "64"
    )


def test_py_libp2p_reads_our_voucher() -> None:
    envelope: Message = Envelope.FromString(voucher(RELAY, PEER, 1_800_000_000))
    held = Voucher.FromString(envelope.payload)
    assert held.expiration == 1_800_000_000
    parts = (b"libp2p-relay-rsvp", envelope.payload_type, envelope.payload)
    signed = b"".join(varint(len(part)) + part for part in parts)
    assert verify_signature(RELAY.peer_id, signed, envelope.signature)


def test_py_libp2p_reads_our_answer() -> None:
    sent = Hop(type=HopType.STATUS, status=Status.NO_RESERVATION, peer_id=PEER)
    read = HopMessage.FromString(encode_hop(sent))
    assert (read.type, read.status) == (HopMessage.STATUS, Status.NO_RESERVATION)
    assert len(read.peer.id) == 38


@given(st.integers(0, 2**64 - 1))
def test_numbers_round_trip(number: int) -> None:
    data = varint(number)
    assert read_varint_untrusted(data, 0) == (number, len(data))


@pytest.mark.parametrize("size_bytes", [0, 1, 127, 128, MESSAGE_BYTES_MAX])
async def test_a_message_is_read_without_what_follows(size_bytes: int) -> None:
    reader = Bytes(framed(bytes(size_bytes)) + b"next")
    assert await read_message_untrusted(reader) == bytes(size_bytes)
    assert reader.data == b"next"


@pytest.mark.parametrize("head", ["8120", "ffff01", "808001"])
async def test_long_messages_are_refused(head: str) -> None:
    with pytest.raises(MessageInvalid):
        await read_message_untrusted(Bytes(bytes.fromhex(head) + bytes(10)))


NOW_S = 1_800_000_000.0
VOUCHER = voucher(RELAY, PEER, int(NOW_S) + 60)


def test_a_voucher_holds_until_it_expires() -> None:
    check_voucher_untrusted(VOUCHER, RELAY.peer_id, PEER, NOW_S)
    # Clocks may differ by ten minutes.
    check_voucher_untrusted(VOUCHER, RELAY.peer_id, PEER, NOW_S + 659)
    with pytest.raises(MessageInvalid, match="has expired"):
        check_voucher_untrusted(VOUCHER, RELAY.peer_id, PEER, NOW_S + 661)


def test_a_stolen_voucher_is_refused() -> None:
    thief, other_relay = Identity.generate(), Identity.generate()
    with pytest.raises(MessageInvalid, match="of another peer"):
        check_voucher_untrusted(VOUCHER, RELAY.peer_id, thief.peer_id, NOW_S)
    with pytest.raises(MessageInvalid, match="did not sign"):
        check_voucher_untrusted(VOUCHER, other_relay.peer_id, PEER, NOW_S)
    # Signed by the one, in the name of the other.
    payload = VOUCHER.replace(base58.b58decode(RELAY.peer_id), base58.b58decode(thief.peer_id))
    with pytest.raises(MessageInvalid, match="did not sign"):
        check_voucher_untrusted(payload, RELAY.peer_id, PEER, NOW_S)


@given(st.data())
def test_a_voucher_that_was_changed_is_refused_or_the_same(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(VOUCHER) - 1))
    flipped = bytearray(VOUCHER)
    flipped[place] ^= data.draw(st.integers(1, 255))
    # The envelope's own key and its field tags say nothing that is believed.
    before_payload = VOUCHER.index(b"\x03\x02") - 2
    if place >= before_payload:
        with pytest.raises(MessageInvalid):
            check_voucher_untrusted(bytes(flipped), RELAY.peer_id, PEER, NOW_S)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_voucher(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        check_voucher_untrusted(data, RELAY.peer_id, PEER, NOW_S)
