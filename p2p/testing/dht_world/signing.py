"""Signatures that cost nothing: a keyed hash in the place where real nodes put Ed25519.

Only the simulator holds the secret, and liars are not given it: as with real signatures, nobody
forges another's. All else about a record is checked by the validators of real nodes.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from p2p.dht.record import Record, signed_bytes
from p2p.errors import RecordInvalid


class StandInSigning:
    """Signs for everybody, and checks."""

    def __init__(self, seed: int) -> None:
        self._secret = hashlib.sha256(b"stand-in %d" % seed).digest()

    def sign(self, record: Record) -> Record:
        """The record with its owner's signature."""
        return replace(record, signature=self._signature(record))

    def check(self, record: Record) -> None:
        """Raise RecordInvalid unless an owned record is signed, and no other is."""
        expected = self._signature(record) if record.owner is not None else b""
        if record.signature != expected:
            raise RecordInvalid("not signed by the owner of its subkey")

    def _signature(self, record: Record) -> bytes:
        owner = (record.owner or "").encode()
        hashed = hashlib.blake2b(owner + b"\0" + signed_bytes(record), key=self._secret)
        return hashed.digest()
