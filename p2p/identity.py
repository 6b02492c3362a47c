"""Ed25519 identities: peer ids, signatures, and key files on disk."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from p2p.errors import IdentityError, MessageInvalid
from p2p.peer_id import KEYS_KEPT_MAX, PeerId, peer_id_of, public_key_of

# The protobuf of a private key: type Ed25519, 64 bytes of seed and public key, as go-libp2p writes.
_KEY_FILE_PREFIX = bytes([0x08, 0x01, 0x12, 0x40])
_KEY_FILE_BYTES_MAX = 4096


@lru_cache(KEYS_KEPT_MAX)
def parse_peer_id_untrusted(text: str) -> PeerId:
    """Check that a text is an Ed25519 peer id in its one canonical spelling.

    Raises:
        MessageInvalid: it is not.
    """
    try:
        canonical = peer_id_of(public_key_of(PeerId(text)))
    except ValueError as exc:
        raise MessageInvalid(f"not an Ed25519 peer id: {text[:64]!r}") from exc
    if canonical != text:
        raise MessageInvalid(f"not a canonical peer id: {text!r}")
    return canonical


def verify_signature(peer_id: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether the owner of the peer id signed exactly this message."""
    try:
        _key_of(peer_id).verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True


@lru_cache(KEYS_KEPT_MAX)
def _key_of(peer_id: PeerId) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key_of(peer_id))


class Identity:
    """An Ed25519 key pair and the peer id that it proves."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.peer_id = peer_id_of(self.public_key)

    @classmethod
    def generate(cls, rng: random.Random | None = None) -> Identity:
        """A new identity; from the generator if one is given (simulation only: guessable)."""
        if rng is None:
            return cls(Ed25519PrivateKey.generate())
        return cls(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)))

    @classmethod
    def load_or_create(cls, path: str | Path) -> Identity:
        """Load the key file, or make a new one that only its owner may read.

        Raises:
            IdentityError: the file is unreadable, not a key, or open to other users.
        """
        path = Path(path).expanduser()
        if not os.path.lexists(path):
            cls.generate()._save(path)
        # What counts is what lies on the disk: another process may have been quicker.
        return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> Identity:
        try:
            mode = path.stat().st_mode
            with path.open("rb") as file:
                raw = file.read(_KEY_FILE_BYTES_MAX)
        except OSError as exc:
            raise IdentityError(
                f"cannot read the key file {path}: {exc.strerror}; "
                "give --identity a file that you own"
            ) from exc
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise IdentityError(
                f"the key file {path} can be read by other users of this machine; "
                f"run: chmod 600 {path}"
            )
        if len(raw) != len(_KEY_FILE_PREFIX) + 64 or not raw.startswith(_KEY_FILE_PREFIX):
            raise IdentityError(
                f"{path} is not an Ed25519 key file; move it away and a new one will be made"
            )
        identity = cls(Ed25519PrivateKey.from_private_bytes(raw[4:36]))
        if identity.public_key != raw[36:]:
            raise IdentityError(
                f"the key file {path} is damaged; restore it, or move it away to get a new identity"
            )
        return identity

    def _save(self, path: Path) -> None:
        seed = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # mkstemp makes the file 0600 at birth, so the key is never open to others.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_KEY_FILE_PREFIX + seed + self.public_key)
                    file.flush()
                    os.fsync(file.fileno())
                # Unlike a rename, a link never takes the place of another process's key.
                with contextlib.suppress(FileExistsError):
                    os.link(name, path)
            finally:
                os.unlink(name)
        except OSError as exc:
            raise IdentityError(
                f"cannot write the key file {path}: {exc.strerror}; "
                "give --identity a path that you may write"
            ) from exc

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes) of a message."""
        return self._key.sign(message)
