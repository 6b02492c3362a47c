"""The wire: round trips, recorded bytes, ranges, and noise."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity, Message, MessageInvalid, decode_untrusted, encode
from p2p.dht import schema
from p2p.dht.record import Record

ALICE = Identity.generate(random.Random(1)).peer_id
HERE = ("/ip4/1.2.3.4/tcp/5",)
CONTACT = schema.WireContact("x", HERE)
RECORD = schema.WireRecord("peer:x", b"v", 10, 2, 30, 40, b"s")

# Recorded bytes of version 1: what older peers send and expect.
RECORDED: list[tuple[Message, str]] = [
    (schema.Ping(()), "9190"),
    (schema.Pong(7), "9107"),
    (
        schema.FindNode(HERE, (bytes(32),), 5),
        "9391b22f6970342f312e322e332e342f7463702f3591c420" + "00" * 32 + "05",
    ),
    (schema.FoundNodes(7, ((CONTACT,),)), "9207919192a17891b22f6970342f312e322e332e342f7463702f35"),
    (
        schema.FindValue((), (schema.Query(bytes(32), "s"),), 8),
        "93909196c420" + "00" * 32 + "a173c2a0000008",
    ),
    (
        schema.FoundValues(7, (schema.Found((), (RECORD,), True, 5, 6),)),
        "92079195909197a6706565723a78c401760a021e28c40173c30506",
    ),
    (
        schema.Store((), (schema.KeyRecords("k", (RECORD,)),)),
        "92909192a16b9197a6706565723a78c401760a021e28c40173",
    ),
    (schema.Stored(7, (schema.Answer(1, 9, "old"),)), "920791930109a36f6c64"),
    (schema.Leave(), "90"),
    (schema.Left(), "90"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED, ids=lambda x: type(x).__name__)
def test_messages_have_their_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    decoded = decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=4096)
    assert decoded == message


# What peers send that read whole dictionaries only.
EARLIER: list[tuple[Message, str]] = [
    (
        schema.FindValue((), (schema.Query(bytes(32), None, True, "s"),), 8),
        "93909194c420" + "00" * 32 + "c0c3a17308",
    ),
    (
        schema.FoundValues(7, (schema.Found((), (RECORD,), True),)),
        "92079193909197a6706565723a78c401760a021e28c40173c3",
    ),
]


@pytest.mark.parametrize(("message", "recorded"), EARLIER, ids=lambda x: type(x).__name__)
def test_messages_of_earlier_peers_are_understood(message: Message, recorded: str) -> None:
    data = bytes.fromhex(recorded)
    assert decode_untrusted(data, type(message), size_bytes_max=4096) == message


KINDS: list[Any] = sorted({type(message) for message, _ in RECORDED}, key=lambda k: k.__name__)


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_noise_is_refused_with_one_error(kind: Any, data: bytes) -> None:
    try:
        decode_untrusted(data, kind, size_bytes_max=4096)
    except MessageInvalid:
        return


@given(st.sampled_from(RECORDED), st.data())
def test_one_changed_byte_does_no_harm(recorded: tuple[Message, str], data: st.DataObject) -> None:
    raw = bytearray(bytes.fromhex(recorded[1]))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_untrusted(bytes(raw), type(recorded[0]), size_bytes_max=4096)
    except MessageInvalid:
        return


@pytest.mark.parametrize(
    "message",
    [
        schema.Ping(HERE * 9),
        schema.Ping(("x" * 161,)),
        schema.Pong(-1),
        schema.FindNode((), (bytes(31),), 5),
        schema.FindNode((), (), 5),
        schema.FindNode((), (bytes(32),) * 17, 5),
        schema.FindNode((), (bytes(32),), 21),
        schema.FindValue((), (schema.Query(bytes(32), "s" * 129),), 5),
        schema.FoundNodes(7, ((CONTACT,) * 21,)),
        schema.Store((), (schema.KeyRecords("", (RECORD,)),)),
        schema.Store((), (schema.KeyRecords("k", ()),)),
        schema.Store(
            (), (schema.KeyRecords("k", (msgspec.structs.replace(RECORD, sequence=-1),)),)
        ),
        schema.Store(
            (), (schema.KeyRecords("k", (msgspec.structs.replace(RECORD, signature=bytes(65)),)),)
        ),
        schema.Stored(7, (schema.Answer(3),)),
    ],
)
def test_what_is_out_of_range_is_refused(message: Message) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), type(message), size_bytes_max=65_536)


def test_records_survive_the_trip() -> None:
    record = Record(
        key="k",
        subkey="peer:x",
        value=b"v",
        sequence=2,
        life_ms=30,
        signed_at_ms=40,
        signature=b"s",
    )
    wire = schema.to_wire(record, 0.0101)
    assert wire == RECORD
    assert schema.from_wire("k", wire) == record
    assert schema.to_wire(record, -1.0).remaining_ms == 0


def test_contacts_with_impossible_ids_are_left_out() -> None:
    named = (CONTACT, schema.WireContact(ALICE, HERE), schema.WireContact("", ()))
    (contact,) = schema.contacts_untrusted(named)
    assert contact.peer_id == ALICE
    assert contact.addresses == HERE
    with pytest.raises(MessageInvalid):
        schema.contact_untrusted("nobody", ())


def test_the_largest_answers_fit_their_limits() -> None:
    address = "x" * schema.ADDRESS_LENGTH_MAX
    contact = schema.WireContact("p" * 64, (address,) * schema.ADDRESSES_PASSED_ON_MAX)
    contacts = (contact,) * schema.CONTACTS_MAX
    nodes = schema.FoundNodes(2**53, (contacts,) * schema.TARGETS_MAX)
    assert len(encode(nodes)) <= schema.FIND_NODE.response_bytes_max
    # A page never exceeds its bytes by more than its one first record.
    value = bytes(schema.PAGE_BYTES_MAX + 16_384)
    found = [schema.Found(contacts, ())] * (schema.QUERIES_MAX - 1)
    found.append(schema.Found(contacts, (schema.WireRecord("s" * 128, value, 1),)))
    assert len(encode(schema.FoundValues(1, tuple(found)))) <= schema.FIND_VALUE.response_bytes_max
    answer = schema.Answer(2, 2**62, "r" * schema.REASON_LENGTH_MAX)
    stored = schema.Stored(2**53, (answer,) * schema.RECORDS_MAX)
    assert len(encode(stored)) <= schema.STORE.response_bytes_max
