"""Ephemeral keys of one group: agreed seeds, sealed shares, commitments (core).

Everything is bound to the group's id, which holds a fresh nonce of every member, so that nothing of
one group passes in another.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p2p import MessageInvalid

KEY_SIZE_BYTES: Final = 32
TAG_SIZE_BYTES: Final = 16
# Each key seals one message, so its nonce need not differ from another's.
_NONCE: Final = bytes(12)


def public_key_of(secret_key: bytes) -> bytes:
    """The X25519 public key of a secret one; both have 32 bytes."""
    return public_bytes_of(key_of(secret_key))


def public_bytes_of(ours: X25519PrivateKey) -> bytes:
    """The public key of a pair, 32 bytes."""
    return ours.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_of(secret_key: bytes) -> X25519PrivateKey:
    """An X25519 key pair, from its 32 secret bytes; making it takes as long as to agree once."""
    return X25519PrivateKey.from_private_bytes(secret_key)


def agree_untrusted(ours: X25519PrivateKey, public_key: bytes) -> bytes:
    """What both owners of two X25519 key pairs know, and nobody else: 32 bytes.

    Raises:
        MessageInvalid: the public key is one of the few with which everybody would know it.
    """
    try:
        return ours.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as exc:
        raise MessageInvalid("a public key that agrees on nothing secret") from exc


def commit(kind: str, group_id: bytes, *parts: bytes) -> bytes:
    """A SHA-256 that names these bytes of fixed lengths, and does not tell what they are."""
    return hashlib.sha256(b"\0".join([_context(kind), group_id, *parts])).digest()


def _context(kind: str) -> bytes:
    return f"manyhands/secure/{kind}/1".encode()


def seal(agreed: bytes, group_id: bytes, sender: int, receiver: int, plain: bytes) -> bytes:
    """Encrypt the one message of a member to another: ChaCha20-Poly1305."""
    key, names = _box_key(agreed, group_id, sender, receiver)
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, names)


def open_untrusted(
    agreed: bytes, group_id: bytes, sender: int, receiver: int, sealed: bytes
) -> bytes:
    """Decrypt it.

    Raises:
        MessageInvalid: the sender has not sealed this for the receiver in this group.
    """
    key, names = _box_key(agreed, group_id, sender, receiver)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, names)
    except InvalidTag as exc:
        raise MessageInvalid("sealed bytes that do not open") from exc


def _box_key(agreed: bytes, group_id: bytes, sender: int, receiver: int) -> tuple[bytes, bytes]:
    names = _context("box") + group_id + bytes([sender, receiver])
    return HKDF(SHA256(), 32, salt=None, info=names).derive(agreed), names
