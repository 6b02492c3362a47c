"""The Noise handshake of libp2p: each side proves the identity behind its session key.

Source: libp2p specification, noise (Noise_XX_25519_ChaChaPoly_SHA256); T. Perrin: The Noise
Protocol Framework, revision 34.

    dialer     e
    listener   e, ee, s, es, {identity key, signature of s}
    dialer     s, se, {identity key, signature of s}

Two peers that dial each other from their listening ports at the same moment may find themselves on
one socket, each as its dialer (TCP's simultaneous open). Each then gets the other's first message,
a bare key, where it expects an answer, which is longer. The one with the smaller peer id stays the
dialer; the other forgets what it has sent and answers.

Only Ed25519 identities are looked at: no other key of a stranger is ever parsed or computed with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import Keypair, NoiseConnection

from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteStream
from p2p.host.transport import DialError
from p2p.identity import Identity, verify_signature
from p2p.peer_id import PeerId, peer_id_of

KEY_PREFIX = bytes([0x08, 0x01, 0x12, 0x20])
"""The protobuf of an Ed25519 public key, up to its 32 bytes."""
SIGNED_PREFIX = b"noise-libp2p-static-key:"
_PROTOCOL = b"Noise_XX_25519_ChaChaPoly_SHA256"
_KEY_BYTES = len(KEY_PREFIX) + 32
_LENGTH_BYTES = 2
_BARE_KEY_BYTES = 32
"""The size of a dialer's first message; no answer is as short."""


@dataclass(frozen=True)
class SessionKeys:
    """Who is there, and the keys that only the two of us have."""

    peer_id: PeerId
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    handshake_hash: bytes
    """Names this one handshake; public."""
    is_dialer: bool


async def handshake(stream: ByteStream, identity: Identity, expected: PeerId | None) -> SessionKeys:
    """Prove who we are and learn who is there.

    Args:
        expected: whom we dialed, or None for an inbound connection.

    Raises:
        DialError: somebody else is there.
        MessageInvalid: what came is no valid handshake.
    """
    if expected is not None:
        state = _State(identity, is_initiator=True)
        await stream.send_all(state.write_untrusted(b""))
        answer = await _receive(stream)
        if len(answer) == _BARE_KEY_BYTES:
            if expected < identity.peer_id:
                return await _answer(stream, identity, expected, first=answer)
            answer = await _receive(stream)
        peer_id = state.verify_untrusted(state.read_untrusted(answer))
        _check(peer_id, expected)
        await stream.send_all(state.write_untrusted(state.proof()))
        return state.keys(peer_id)
    return await _answer(stream, identity, None, first=await _receive(stream))


async def _answer(
    stream: ByteStream, identity: Identity, expected: PeerId | None, *, first: bytes
) -> SessionKeys:
    """The listener's part, from the dialer's first message on."""
    state = _State(identity, is_initiator=False)
    state.read_untrusted(first)
    await stream.send_all(state.write_untrusted(state.proof()))
    peer_id = state.verify_untrusted(state.read_untrusted(await _receive(stream)))
    if expected is not None:
        _check(peer_id, expected)
    return state.keys(peer_id)


async def prove_there(stream: ByteStream, identity: Identity, expected: PeerId) -> None:
    """Let the listener prove that it is the expected peer, and go no further with the handshake.

    Raises:
        DialError: somebody else is there.
        MessageInvalid: what came is no valid handshake.
    """
    state = _State(identity, is_initiator=True)
    await stream.send_all(state.write_untrusted(b""))
    _check(state.verify_untrusted(state.read_untrusted(await _receive(stream))), expected)


def _check(peer_id: PeerId, expected: PeerId) -> None:
    if peer_id != expected:
        raise DialError(f"impostor: {peer_id} answers there, not {expected}")


async def _receive(stream: ByteStream) -> bytes:
    size = int.from_bytes(await stream.receive_exactly(_LENGTH_BYTES), "big")
    return await stream.receive_exactly(size)


class _State:
    """The handshake so far; the messages are made by the package that py-libp2p uses too."""

    def __init__(self, identity: Identity, *, is_initiator: bool) -> None:
        self._identity = identity
        self._is_initiator = is_initiator
        static = X25519PrivateKey.generate()
        self._static_public = static.public_key().public_bytes_raw()
        self._noise = NoiseConnection.from_name(_PROTOCOL)
        self._noise.set_keypair_from_private_bytes(Keypair.STATIC, static.private_bytes_raw())
        if is_initiator:
            self._noise.set_as_initiator()
        else:
            self._noise.set_as_responder()
        self._noise.start_handshake()
        # The package drops its reference when the handshake is over.
        self._handshake: Any = self._noise.noise_protocol.handshake_state

    def write_untrusted(self, payload: bytes) -> bytes:
        """Our next message, with its length before it; raises MessageInvalid for a weak key."""
        try:
            message = bytes(self._noise.write_message(payload))
        except ValueError as exc:
            # Their session key is mixed in here; one of low order would make the secret public.
            raise MessageInvalid("a session key of low order") from exc
        return len(message).to_bytes(_LENGTH_BYTES, "big") + message

    def read_untrusted(self, message: bytes) -> bytes:
        """The payload of the peer's next message; raises MessageInvalid."""
        try:
            return bytes(self._noise.read_message(message))
        except Exception as exc:
            # The package raises many kinds of errors on hostile bytes; none may escape.
            raise MessageInvalid(f"no valid Noise message ({type(exc).__name__})") from exc

    def proof(self) -> bytes:
        """Our identity key, and its signature of our session key."""
        payload = NoiseHandshakePayload(
            identity_key=KEY_PREFIX + self._identity.public_key,
            identity_sig=self._identity.sign(SIGNED_PREFIX + self._static_public),
        )
        return bytes(payload.SerializeToString())

    def verify_untrusted(self, payload: bytes) -> PeerId:
        """The peer that signed the session key of the other side; raises MessageInvalid."""
        try:
            proof = NoiseHandshakePayload.FromString(payload)
        except DecodeError as exc:
            raise MessageInvalid("the proof of identity is no protobuf") from exc
        key = proof.identity_key
        if len(key) != _KEY_BYTES or not key.startswith(KEY_PREFIX):
            raise MessageInvalid("the identity is not an Ed25519 key")
        peer_id = peer_id_of(key[len(KEY_PREFIX) :])
        signed = SIGNED_PREFIX + self._handshake.rs.public_bytes
        if not verify_signature(peer_id, signed, proof.identity_sig):
            raise MessageInvalid("the identity did not sign the session key")
        return peer_id

    def keys(self, peer_id: PeerId) -> SessionKeys:
        """The outcome, when all messages have been exchanged."""
        protocol = self._noise.noise_protocol
        return SessionKeys(
            peer_id,
            bytes(protocol.cipher_state_encrypt.k),
            bytes(protocol.cipher_state_decrypt.k),
            bytes(self._noise.get_handshake_hash()),
            self._is_initiator,
        )
