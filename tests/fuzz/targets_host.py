"""Targets of a connection: negotiation, handshake, records and frames, as strangers write them."""

from __future__ import annotations

from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import Keypair, NoiseConnection

from p2p import MessageInvalid, RefusedError, StreamBroken
from p2p.host.budget import Share
from p2p.host.handshake import KEY_PREFIX, SIGNED_PREFIX, SessionKeys, handshake
from p2p.host.multistream import (
    MULTISTREAM,
    accept_untrusted,
    line,
    proposal,
    read_answer_untrusted,
    read_line_untrusted,
)
from p2p.host.noise import NoiseSession
from p2p.host.transport import DialError
from p2p.host.yamux import YamuxSession
from p2p.host.yamux_frame import YamuxViolation
from tests.fuzz.known import ALICE, BOB
from tests.fuzz.target import Choices, EndOfInput, InputStream, Target, finish
from tests.fuzz.yamux_machine import Machine
from tests.p2p.host.receiving import next_plains

PROTOCOLS = ("/manyhands/dht/1", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0")

# multistream


def run_line(data: bytes) -> None:
    stream = InputStream(data)
    try:
        while True:
            text = finish(read_line_untrusted(stream))
            # What has been read can be said again.
            assert text.isascii()
            assert line(text).endswith(b"\n")
    except (MessageInvalid, EndOfInput):
        return


def run_accept(data: bytes) -> None:
    stream = InputStream(data)
    try:
        agreed = finish(accept_untrusted(stream, PROTOCOLS.__contains__))
        assert agreed in PROTOCOLS
    except (MessageInvalid, RefusedError, EndOfInput):
        pass
    # Whatever they propose, our answers stay few and small.
    assert len(stream.sent) < 512


def run_answer(data: bytes) -> None:
    try:
        finish(read_answer_untrusted(InputStream(data), PROTOCOLS[0]))
    except (MessageInvalid, RefusedError, EndOfInput):
        return
    assert data.startswith(proposal(PROTOCOLS[0]))


# The Noise handshake

STATIC = X25519PrivateKey.from_private_bytes(b"\x11" * 32)
PROOF = NoiseHandshakePayload(
    identity_key=KEY_PREFIX + ALICE.public_key,
    identity_sig=ALICE.sign(SIGNED_PREFIX + STATIC.public_key().public_bytes_raw()),
).SerializeToString()


def noise_side(*, dialer: bool) -> Any:
    """The other side of a handshake, honest up to its proof of identity."""
    noise = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
    noise.set_keypair_from_private_bytes(Keypair.STATIC, STATIC.private_bytes_raw())
    if dialer:
        noise.set_as_initiator()
    else:
        noise.set_as_responder()
    noise.start_handshake()
    return noise


def sized(message: bytes) -> bytes:
    """A message of the handshake as it travels."""
    return len(message).to_bytes(2, "big") + message


class Prover:
    """Shakes hands in order, with whatever proof of identity it is given."""

    def __init__(self, proof: bytes, *, dialer: bool) -> None:
        self._noise = noise_side(dialer=dialer)
        self._proof = proof
        self._to_say = sized(bytes(self._noise.write_message(b""))) if dialer else b""

    async def send_all(self, data: bytes) -> None:
        """Their message comes, our proof is the answer; a listener's last one needs none."""
        self._noise.read_message(data[2:])
        if not self._noise.handshake_finished:
            self._to_say += sized(bytes(self._noise.write_message(self._proof)))

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """What we say next."""
        part, self._to_say = self._to_say[:size_bytes], self._to_say[size_bytes:]
        assert len(part) == size_bytes
        return part


def run_handshake(data: bytes) -> None:
    expected = ALICE.peer_id if data[:1] > b"\x7f" else None
    try:
        finish(handshake(InputStream(data[1:]), BOB, expected))
    except (MessageInvalid, DialError, EndOfInput):
        return
    raise AssertionError("bytes that nobody computed for this handshake were believed")


def run_proof(data: bytes) -> None:
    if not data or len(data) > 60_000:
        return
    dialed = bool(data[0] & 1)
    prover = Prover(data[1:], dialer=not dialed)
    try:
        keys = finish(handshake(prover, BOB, ALICE.peer_id if dialed else None))
    except (MessageInvalid, DialError):
        return
    # No bytes pass but those that hold Alice's signature, and they prove Alice.
    assert keys.peer_id == ALICE.peer_id
    assert NoiseHandshakePayload.FromString(data[1:]).identity_key == KEY_PREFIX + ALICE.public_key


# Noise records


class Pipe:
    """A byte stream that keeps what is sent, and gives what comes in pieces as told."""

    def __init__(self, data: bytes = b"", choices: Choices | None = None) -> None:
        self.sent = bytearray()
        self._data = data
        self._choices = choices

    async def send_all(self, data: bytes) -> None:
        self.sent += data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size_bytes = max_bytes or 65_536
        if self._choices is not None and self._choices.left:
            size_bytes = min(size_bytes, 1 + self._choices.number(3_000))
        part, self._data = self._data[:size_bytes], self._data[size_bytes:]
        return part


def session_over(pipe: Any, *, near: bool, aes: bool = False) -> NoiseSession:
    """One end of a session whose keys are known."""
    one, other = b"1" * 32, b"2" * 32
    if not near:
        one, other = other, one
    keys = SessionKeys(ALICE.peer_id, one, other, b"h" * 32, is_dialer=near)
    session = NoiseSession(pipe, keys)
    if aes:
        session.switch_to_aes()
    return session


async def read_all(session: NoiseSession) -> bytes:
    """Everything up to the end of the stream, or to the first record that is not theirs."""
    received = b""
    try:
        while pieces := await next_plains(session):
            received += b"".join(pieces)
    except StreamBroken:
        pass
    return received


async def tamper_with_records(data: bytes) -> None:
    choices = Choices(data)
    out = Pipe()
    aes = choices.number(2) == 1
    sender = session_over(out, near=True, aes=aes)
    sent = b""
    for number in range(choices.number(5)):
        plain = bytes([65 + number]) * choices.pick((0, 1, 100, 65_519, 65_520, 140_000))
        sent += plain
        await sender.send([plain, plain[:1]])
        sent += plain[:1]
    wire = bytearray(out.sent)
    for _ in range(choices.number(3)):
        place = choices.number(65_536) % (len(wire) + 1)
        change = choices.number(4)
        if change == 0 and place < len(wire):
            wire[place] ^= 1 << choices.number(8)
        elif change == 1:
            del wire[place : place + 1 + choices.number(256)]
        elif change == 2:
            wire[place:place] = choices.bytes(1 + choices.number(40))
        else:
            wire += wire[place : place + 500]
    received = await read_all(session_over(Pipe(bytes(wire), choices), near=False, aes=aes))
    # Never a byte that was not sent, nor out of order; and all of it when nobody interfered.
    assert sent.startswith(received)
    assert received == sent or wire != out.sent


def run_records(data: bytes) -> None:
    trio.run(tamper_with_records, data)


def run_raw_records(data: bytes) -> None:
    for aes in (False, True):
        assert trio.run(read_all, session_over(Pipe(data), near=False, aes=aes)) == b""


# Yamux


def yamux(dialer: bool, unread: Share, unsent: Share) -> YamuxSession:
    """The session under test."""
    return YamuxSession(dialer=dialer, unread=unread, unsent=unsent)


def run_yamux(data: bytes) -> None:
    choices = Choices(data)
    machine = Machine(yamux, choices)
    try:
        while choices.left:
            machine.step()
    except YamuxViolation:
        machine.end_lost()
        return
    machine.end()


def run_yamux_raw(data: bytes) -> None:
    session = YamuxSession(dialer=False)
    half = len(data) // 2
    try:
        for piece in (data[:half], data[half:]):
            for stream_id in session.on_bytes(piece).opened:
                # A stream whose peer wants no more takes nothing; its owner has been told.
                if session.is_open(stream_id) and not session.finished(stream_id):
                    session.send(stream_id, b"answer")
                    session.abandon(stream_id)
            session.next_frames(1 << 20)
    except YamuxViolation:
        session.on_lost()


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A frame of yamux without its data."""
    start = bytes([0, kind]) + flags.to_bytes(2, "big")
    return start + stream_id.to_bytes(4, "big") + length.to_bytes(4, "big")


YAMUX_SEEDS = (
    header(1, 1, 1, 0) + header(0, 4, 1, 5) + b"hello",
    header(0, 1, 1, 3) + b"abc" + header(1, 8, 1, 0) + header(2, 1, 0, 7),
    header(1, 1, 1, 2**32 - 1) + header(1, 0, 1, 2**32 - 1) + header(3, 0, 0, 0),
)

TARGETS = (
    Target(
        name="host.multistream-line",
        run=run_line,
        seeds=(line(MULTISTREAM), line(PROTOCOLS[0]) + line("na"), b"\x80\x01" + b"x" * 128),
        covers=("p2p.host.multistream.read_line_untrusted",),
    ),
    Target(
        name="host.multistream-accept",
        run=run_accept,
        seeds=(
            proposal(PROTOCOLS[0]),
            proposal("/none") + line(PROTOCOLS[1]),
            line(MULTISTREAM) + line("/a") * 33,
        ),
        covers=("p2p.host.multistream.accept_untrusted",),
    ),
    Target(
        name="host.multistream-answer",
        run=run_answer,
        seeds=(proposal(PROTOCOLS[0]), proposal("na"), proposal(PROTOCOLS[1])),
        covers=("p2p.host.multistream.read_answer_untrusted",),
    ),
    Target(
        name="host.noise-handshake",
        run=run_handshake,
        seeds=(
            b"\x00" + sized(bytes(range(32))),
            b"\x00" + sized(bytes(32)),
            b"\xff" + sized(bytes(range(200))),
            b"\x00" + sized(bytes(range(32))) + sized(bytes(range(168))),
        ),
        covers=(
            "p2p.host.handshake.read_untrusted",
            "p2p.host.handshake.write_untrusted",
        ),
    ),
    Target(
        name="host.noise-proof",
        run=run_proof,
        seeds=(b"\x00" + PROOF, b"\x01" + PROOF, b"\x00", b"\x00" + PROOF[:40]),
        covers=("p2p.host.handshake.verify_untrusted",),
    ),
    Target(
        name="host.noise-records",
        run=run_records,
        seeds=(
            b"\x04\x01\x02\x03\x04\x00",
            b"\x03\x02\x02\x02\x01\x00\x09\x00\x03\x00",
            b"\x02\x03",
        ),
        size_bytes_max=256,
    ),
    Target(
        name="host.noise-raw-records",
        run=run_raw_records,
        seeds=(sized(bytes(16)), sized(b""), sized(bytes(300)) * 2, b"\xff\xff" + bytes(70_000)),
    ),
    Target(
        name="host.yamux",
        run=run_yamux,
        seeds=(
            # Each list: who dialed, the budget, then steps of the machine with their choices.
            bytes([1, 0, 0, 1, 0, 3, 7, 4, 10, 1, 0, 1, 3, 5, 0, 2, 7, 4]),
            bytes([0, 0, 10, 1, 2, 0, 0, 10, 0, 0, 0, 6, 5, 0, 3, 7, 4, 3, 0, 6, 6, 6, 6, 6, 6]),
            bytes([0, 0, 10, 1, 2, 2, 9, 10, 1, 0, 2, 8, 1, 0, 6, 7, 4, 12]),
            # Our window is filled to the last byte, and then some.
            bytes([0, 1, 10, 1, 2, 0, 0, *[10, 0, 0, 0, 6] * 4, 10, 0, 0, 0, 2, 7, 4]),
            # We fill their window, which is no multiple of a frame.
            bytes([1, 1, 0, 1, 0, 2, 7, 4, 1, 0, 6, 7, 4, 10, 1, 0, 0, 3, 1, 0, 4, 7, 4]),
        ),
        size_bytes_max=512,
    ),
    Target(name="host.yamux-raw", run=run_yamux_raw, seeds=YAMUX_SEEDS, size_bytes_max=2048),
)
