"""Targets of the networking layer: messages, frames of calls, addresses, peer ids, DHT records."""

from __future__ import annotations

import struct

import trio

import p2p
from p2p import MessageInvalid, PeerId, RefusedError, RemoteError, StreamBroken, encode
from p2p.address import parse_address_untrusted, scope
from p2p.dht import schema
from p2p.dht.contact import networks_of
from p2p.dht.hearsay import (
    HearsayGuard,
    Reach,
    account_of_untrusted,
    fit_untrusted,
    seen_at_untrusted,
)
from p2p.dht.key import node_key
from p2p.dht.record import Record, Sequencer, owned_subkey, sign_record
from p2p.dht.snapshot import first_to_try, from_bytes_untrusted, to_bytes
from p2p.dht.validate import SchemaValidator, ValidatorChain, signature_complaints
from p2p.host.stream import Intake
from p2p.identity import parse_peer_id_untrusted
from p2p.peerstore import Peerstore
from p2p.rpc import schema as rpc
from p2p.rpc.call import raise_control_untrusted
from p2p.rpc.frames import FrameReader
from p2p.wire import decode_untrusted
from tests.fuzz.known import ALICE, BOB
from tests.fuzz.messages import kinds_of, message_target, modules_of
from tests.fuzz.target import Target
from tests.p2p.dht.test_schema import RECORDED

ADDRESSES = (
    f"/ip4/1.2.3.4/tcp/31337/p2p/{ALICE.peer_id}",
    "/ip6/fd00::1/tcp/1",
    "/dns4/example.org/tcp/443",
    f"/ip6/::ffff:10.0.0.1/tcp/65535/ipfs/{BOB.peer_id}",
)


def text_of(data: bytes) -> str:
    """Text as a message may hold it."""
    return data.decode("utf-8", "replace")


# Calls


class _Said:
    """A stream on which the other side has said something and finished."""

    def __init__(self, data: bytes, piece_bytes: int) -> None:
        self._data = data
        self._piece_bytes = piece_bytes

    async def receive_some(self, max_bytes: int) -> bytes:
        size_bytes = min(max_bytes, self._piece_bytes)
        part, self._data = self._data[:size_bytes], self._data[size_bytes:]
        return part

    async def fill(self, intake: Intake) -> None:
        while not intake.ready:
            part = await self.receive_some(intake.left_bytes)
            if part:
                intake.room(len(part))[:] = part
                intake.on_filled(len(part), 0.0)
            else:
                intake.on_end()

    async def receive_exactly(self, size_bytes: int) -> bytes:
        part, self._data = self._data[:size_bytes], self._data[size_bytes:]
        if len(part) < size_bytes:
            raise StreamBroken("the end")
        return part


async def read_frames(data: bytes) -> None:
    piece_bytes = data[0] + 1 if data else 1
    frames = FrameReader(_Said(data[1:], piece_bytes))
    try:
        while received := await frames.next_untrusted(1_000, 2_000):
            kind, body, payload = received
            assert len(body) <= 1_024
            assert len(payload) <= 2_000
            assert kind == rpc.MESSAGE or not payload
    except (MessageInvalid, StreamBroken):
        return


def run_frames(data: bytes) -> None:
    trio.run(read_frames, data)


def run_control(data: bytes) -> None:
    try:
        raise_control_untrusted(data[0] if data else 0, data[1:])
    except (RefusedError, RemoteError):
        return


# Addresses and ids


def run_address(data: bytes) -> None:
    text = text_of(data)
    try:
        address = parse_address_untrusted(text)
    except MessageInvalid:
        return
    # What we pass on of it is understood by others as the same.
    assert parse_address_untrusted(str(address)) == address
    assert scope(address) in ("loopback", "private", "public")
    networks_of((text,))


def run_peer_id(data: bytes) -> None:
    text = text_of(data)
    try:
        peer_id = parse_peer_id_untrusted(text)
    except MessageInvalid:
        return
    assert peer_id == text
    assert parse_peer_id_untrusted(peer_id) == peer_id
    node_key(peer_id)


def run_peerstore(data: bytes) -> None:
    store = Peerstore(peers_max=4)
    for number, text in enumerate(text_of(data).split("\n")):
        peer_id = (ALICE.peer_id, BOB.peer_id, PeerId(text[:60]))[number % 3]
        store.add_untrusted(peer_id, text.split(","))
        assert len(store.addresses_of(peer_id)) <= 8
        assert all(address.peer_id == peer_id for address in store.addresses_of(peer_id))


# The DHT

NOW_S = 1_000_000.0
SIGNED = sign_record(
    Record(
        key="run/progress",
        subkey=owned_subkey(ALICE.peer_id),
        value=encode(schema.Pong(7)),
        sequence=5,
        life_ms=60_000,
        signed_at_ms=int(NOW_S * 1000),
    ),
    ALICE,
)


def run_record(data: bytes) -> None:
    try:
        message = decode_untrusted(data, schema.KeyRecords, size_bytes_max=65_536)
    except MessageInvalid:
        return
    chain = ValidatorChain((SchemaValidator(key_pattern=".*/progress", kind=schema.Pong),))
    records = [schema.from_wire(message.key, wire) for wire in message.records]
    heavy = signature_complaints(records)
    for record, complaint in zip(records, heavy, strict=True):
        if chain.complaint(record, NOW_S) is None:
            assert complaint is None
            # Nobody but Alice has signed anything.
            assert record.owner is None or record == SIGNED
    for record, wire in zip(records, message.records, strict=True):
        assert schema.from_wire(message.key, schema.to_wire(record, wire.remaining_ms / 1000))


def run_contacts(data: bytes) -> None:
    try:
        answer = decode_untrusted(data, schema.FoundNodes, size_bytes_max=65_536)
    except MessageInvalid:
        return
    for named in answer.contacts:
        for contact in schema.contacts_untrusted(named):
            parse_peer_id_untrusted(contact.peer_id)
            for reach in Reach:
                fit = fit_untrusted(contact.addresses, reach)
                HearsayGuard().admit(fit, 0.0)
                for address in contact.addresses:
                    HearsayGuard().on_answered(address, contact.addresses)
                    seen_at_untrusted(contact.addresses, address)
            for address in contact.addresses:
                account_of_untrusted(address)
            networks_of(contact.addresses)


def run_snapshot(data: bytes) -> None:
    try:
        snapshot = from_bytes_untrusted(data)
    except MessageInvalid:
        return
    for contact in first_to_try(snapshot, 16):
        parse_peer_id_untrusted(contact.peer_id)


def run_sequence(data: bytes) -> None:
    sequencer = Sequencer()
    for (sequence,) in struct.iter_unpack(">Q", data[: len(data) // 8 * 8]):
        before = sequencer.last
        sequencer.on_seen_untrusted(sequence, NOW_S)
        assert before <= sequencer.last <= (NOW_S + 4_500) * 1000


FRAME = rpc.frame(rpc.MESSAGE, b"body", 7) + b"payload"
CALL = rpc.frame(rpc.CALL, encode(rpc.CallHeader("ping", 1.0)))
REFUSAL = encode(rpc.Refusal("full", "no room"))

TARGETS = (
    message_target(
        "p2p.messages",
        kinds_of(modules_of(p2p)),
        [
            *((message, bytes.fromhex(recorded)) for message, recorded in RECORDED),
            (rpc.CallHeader("ping", 1.0), encode(rpc.CallHeader("ping", 1.0))),
            (rpc.Refusal("full"), REFUSAL),
            (rpc.Failure("oops"), encode(rpc.Failure("oops"))),
        ],
    ),
    Target(
        name="p2p.rpc-frames",
        run=run_frames,
        seeds=(b"\x00" + CALL + FRAME, b"\xff" + FRAME * 2, b"\x02" + FRAME[:12]),
        covers=(
            "p2p.rpc.frames.next_untrusted",
            "p2p.rpc.frames.next_into_untrusted",
        ),
    ),
    Target(
        name="p2p.rpc-control",
        run=run_control,
        seeds=(
            bytes([rpc.REFUSED]) + REFUSAL,
            bytes([rpc.FAILED]) + encode(rpc.Failure("oops")),
        ),
        covers=("p2p.rpc.call.raise_control_untrusted",),
    ),
    Target(
        name="p2p.address",
        run=run_address,
        seeds=[text.encode() for text in ADDRESSES],
        covers=("p2p.address.parse_address_untrusted",),
        size_bytes_max=300,
    ),
    Target(
        name="p2p.peer-id",
        run=run_peer_id,
        seeds=(ALICE.peer_id.encode(), BOB.peer_id.encode(), b"1" * 46),
        covers=("p2p.identity.parse_peer_id_untrusted",),
        size_bytes_max=100,
    ),
    Target(
        name="p2p.peerstore",
        run=run_peerstore,
        seeds=("\n".join(ADDRESSES).encode(), ",".join(ADDRESSES * 3).encode()),
        covers=("p2p.peerstore.add_untrusted",),
    ),
    Target(
        name="p2p.dht-record",
        run=run_record,
        seeds=(
            encode(schema.KeyRecords(SIGNED.key, (schema.to_wire(SIGNED, 10.0),))),
            encode(
                schema.KeyRecords(
                    "other", (schema.to_wire(Record(key="other", subkey=None, value=b"v"), 1.0),)
                )
            ),
        ),
        covers=("p2p.dht.state.complaints_untrusted", "p2p.dht.state.valid_untrusted"),
    ),
    Target(
        name="p2p.dht-contacts",
        run=run_contacts,
        seeds=(encode(schema.FoundNodes(7, ((schema.WireContact(ALICE.peer_id, ADDRESSES),),))),),
        covers=(
            "p2p.dht.schema.contacts_untrusted",
            "p2p.dht.schema.contact_untrusted",
            "p2p.dht.hearsay.account_of_untrusted",
            "p2p.dht.hearsay.seen_at_untrusted",
            "p2p.dht.hearsay.fit_untrusted",
            "p2p.dht.state.named_untrusted",
        ),
    ),
    Target(
        name="p2p.dht-snapshot",
        run=run_snapshot,
        seeds=(to_bytes(7, 0, [schema.contact_untrusted(ALICE.peer_id, ADDRESSES)]),),
        covers=("p2p.dht.snapshot.from_bytes_untrusted",),
    ),
    Target(
        name="p2p.dht-sequence",
        run=run_sequence,
        seeds=(struct.pack(">3Q", 1, 10**9, 2**62),),
        covers=("p2p.dht.record.on_seen_untrusted",),
        size_bytes_max=64,
    ),
)
