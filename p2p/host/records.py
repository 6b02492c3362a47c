"""Record layers: how bytes are cut into sealed records, and put together again (core).

    /noise                   length (2 bytes), ChaCha20-Poly1305, records of at most 65 535 bytes
    /manyhands/aes-gcm/1     length (4 bytes), AES-256-GCM, plaintexts of at most 512 KiB

Nonces count the records of each direction. Both ciphers release the GIL while they work.

Sources: T. Perrin: The Noise Protocol Framework, revision 34; NIST SP 800-38D for AES-GCM.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from p2p.errors import StreamBroken
from p2p.host.budget import Share

TAG_BYTES = 16
NOT_SEALED = "a record was not sealed by the peer"
KEY_BYTES = 32
BUFFERS_BYTES_MAX = 5_242_880
"""What the buffers of one connection may grow to, as long as all connections have room for it.

A record that has begun is always given its room: 512 KiB, where both sides chose AES-GCM.
"""
_BUFFER_BYTES_MIN = 8_192
_BUFFER_BYTES_MAX = 2_162_688
"""Reads no larger than this, which is a whole message of 2 MiB."""


@dataclass(frozen=True)
class RecordLayer:
    """The format of records, and how long a key may serve."""

    protocol: str
    cipher: type[AESGCM] | type[ChaCha20Poly1305]
    length: struct.Struct
    plain_bytes_max: int
    alone_bytes_min: int
    """A piece of this size is a record of its own; smaller ones are joined, which copies them."""
    frame_data_bytes_max: int
    """What a muxer should put into one frame, so that no frame needs two records for its data."""
    records_per_key: int
    rekeys: bool
    """Whether a new key follows on a used up one; else the connection ends."""


NOISE = RecordLayer(
    protocol="/noise",
    cipher=ChaCha20Poly1305,
    length=struct.Struct(">H"),
    plain_bytes_max=65_535 - TAG_BYTES,
    # Header and data of a frame in one record: other implementations read record by record.
    alone_bytes_min=65_535 - TAG_BYTES,
    frame_data_bytes_max=65_535 - TAG_BYTES - 12,
    # The Noise specification reserves the last nonce (§5.1); libp2p has no message to rekey.
    records_per_key=2**64 - 1,
    rekeys=False,
)
AES_GCM = RecordLayer(
    protocol="/manyhands/aes-gcm/1",
    cipher=AESGCM,
    length=struct.Struct(">I"),
    plain_bytes_max=524_288,
    alone_bytes_min=32_768,
    # A payload of 2 MiB, and the head of its message before it.
    frame_data_bytes_max=2_162_688,
    # 64 GiB of full records: 2^32 blocks of AES, far from where a forgery gets likely.
    records_per_key=2**17,
    rekeys=True,
)


def aes_keys(first: bytes, second: bytes, handshake_hash: bytes) -> tuple[bytes, bytes]:
    """The AES keys of the dialer's and of the listener's direction, bound to one handshake.

    Args:
        first: the Noise transport key of the dialer's direction.
        second: that of the listener's direction.
        handshake_hash: public, so it is only the salt.
    """

    def derive(direction: bytes) -> bytes:
        info = AES_GCM.protocol.encode() + b"|" + direction
        return HKDF(SHA256(), KEY_BYTES, handshake_hash, info).derive(first + second)

    return derive(b"dialer"), derive(b"listener")


class _Key:
    """One direction's cipher and its count of records."""

    def __init__(self, layer: RecordLayer, key: bytes) -> None:
        self._layer = layer
        self._key = key if layer.rekeys else b""
        self.aead = layer.cipher(key)
        self.records = 0

    def next_nonce(self) -> bytes:
        """The nonce of the next record; raises StreamBroken when the key is used up."""
        if self.records >= self._layer.records_per_key:
            if not self._layer.rekeys:
                raise StreamBroken("the connection has used up its nonces")
            info = self._layer.protocol.encode() + b"|rekey"
            self._key = HKDFExpand(SHA256(), KEY_BYTES, info).derive(self._key)
            self.aead = self._layer.cipher(self._key)
            self.records = 0
        nonce = b"\0\0\0\0" + self.records.to_bytes(8, "little")
        self.records += 1
        return nonce


class Sealer:
    """Seals pieces into records, all in one buffer that is used again and again."""

    def __init__(self, layer: RecordLayer, key: bytes, held: Share | None = None) -> None:
        self._layer = layer
        self._key = _Key(layer, key)
        self._buffer = bytearray()
        self._held = held or Share.alone(BUFFERS_BYTES_MAX)
        self._most_bytes = 0

    @property
    def buffer_bytes(self) -> int:
        """What the buffer takes now."""
        return len(self._buffer)

    def seal(self, pieces: Sequence[bytes | memoryview]) -> memoryview:
        """The sealed records of all pieces in order, valid until the next call."""
        length, key = self._layer.length, self._key
        plains = packed(pieces, self._layer)
        size = sum(map(len, plains)) + len(plains) * (length.size + TAG_BYTES)
        self._most_bytes = max(self._most_bytes, size)
        if size > len(self._buffer):
            self._resize(size)
        sealed = memoryview(self._buffer)[:size]
        position = 0
        for plain in plains:
            begin = position + length.size
            end = begin + len(plain) + TAG_BYTES
            length.pack_into(sealed, position, end - begin)
            nonce = key.next_nonce()  # first: it may bring a new key
            key.aead.encrypt_into(nonce, plain, None, sealed[begin:end])
            position = end
        return sealed

    def on_tick(self) -> None:
        """Called every few seconds: a buffer that was not needed since is given back."""
        if self._most_bytes * 2 < len(self._buffer):
            self._resize(0)
        self._most_bytes = 0

    def _resize(self, size: int) -> None:
        self._held.take(size - len(self._buffer))
        self._buffer = bytearray(size)


def packed(pieces: Sequence[bytes | memoryview], layer: RecordLayer) -> list[bytes | memoryview]:
    """The pieces regrouped into plaintexts of at most one record each, in order."""
    alone, most = layer.alone_bytes_min, layer.plain_bytes_max
    plains: list[bytes | memoryview] = []
    group: list[bytes | memoryview] = []
    group_bytes = 0
    for piece in pieces:
        size = len(piece)
        if group and (size >= alone or group_bytes + size > most):
            plains.append(_joined(group))
            group, group_bytes = [], 0
        if size < alone:
            group.append(piece)
            group_bytes += size
        elif size <= most:
            plains.append(piece)
        else:
            view = memoryview(piece)
            plains += [view[start : start + most] for start in range(0, size, most)]
    if group:
        plains.append(_joined(group))
    return plains


def _joined(group: list[bytes | memoryview]) -> bytes | memoryview:
    return group[0] if len(group) == 1 else b"".join(group)


class RecordReader:
    """Bytes come in pieces of any size into one buffer, and leave as plaintexts.

    The buffer begins small and grows with what comes in one read, so that a connection that
    rests costs little.
    """

    def __init__(
        self,
        layer: RecordLayer,
        key: bytes,
        *,
        came_before: bytes = b"",
        held: Share | None = None,
    ) -> None:
        self._layer = layer
        self._key = _Key(layer, key)
        self._buffer = bytearray(max(_BUFFER_BYTES_MIN, len(came_before)))
        self._buffer[: len(came_before)] = came_before
        self._start = 0
        self._end = len(came_before)
        self._held = held or Share.alone(BUFFERS_BYTES_MAX)
        self._held.take(len(self._buffer))
        self._most_bytes = 0
        self._was_full = False

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        held, size = self._end - self._start, len(self._buffer)
        if not held:
            self._start = self._end = 0
        if self._was_full and size < _BUFFER_BYTES_MAX and self._held.room >= size:
            self._move(min(2 * size, _BUFFER_BYTES_MAX), held)
        elif self._start and size - self._end < size // 2:
            self._move(size, held)
        elif self._end == size:
            # Nothing was taken out and all is full: a record that is larger than the buffer.
            self._move(2 * size, held)
        return memoryview(self._buffer)[self._end :]

    def add(self, data: bytes | bytearray) -> None:
        """Put bytes in that came as an object of their own."""
        position = 0
        while position < len(data):
            with self.room() as room:
                size = min(len(room), len(data) - position)
                room[:size] = memoryview(data)[position : position + size]
            self.on_read(size)
            position += size

    def _move(self, size: int, held: int) -> None:
        """Move what is held to the front, of a new buffer if its size changes."""
        with memoryview(self._buffer) as old:
            if size != len(old):
                fresh = bytearray(size)
                fresh[:held] = old[self._start : self._end]
                self._held.take(size - len(old))
                self._buffer = fresh
            else:
                old[:held] = old[self._start : self._end]
        self._start, self._end = 0, held

    def on_read(self, size_bytes: int) -> None:
        """So many bytes have been put into the room."""
        self._end += size_bytes
        self._was_full = self._end == len(self._buffer)
        self._most_bytes = max(self._most_bytes, size_bytes)

    def next_size_bytes(self) -> int | None:
        """The size of the next plaintext, if a whole record is there; it may be 0.

        Raises:
            StreamBroken: a record is longer than any may be, or too short for its seal.
        """
        head = self._layer.length.size
        if self._end - self._start < head:
            return None
        (size,) = self._layer.length.unpack_from(self._buffer, self._start)
        if size > self._layer.plain_bytes_max + TAG_BYTES:
            raise StreamBroken(f"a record of {size} bytes is over the limit")
        if size < TAG_BYTES:
            raise StreamBroken(NOT_SEALED)
        return None if self._end - self._start - head < size else size - TAG_BYTES

    def open_next(self, size_bytes: int) -> bytes:
        """The next plaintext, of the size that next_size_bytes() gave.

        Raises:
            StreamBroken: what came was not sealed by the peer.
        """
        nonce, sealed = self._next_sealed(size_bytes)
        try:
            with sealed:
                return self._key.aead.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise StreamBroken(NOT_SEALED) from None

    def open_next_into(self, out: memoryview) -> None:
        """The same, into a buffer of that size; it is spoiled when the seal is not the peer's."""
        nonce, sealed = self._next_sealed(len(out))
        try:
            with sealed:
                self._key.aead.decrypt_into(nonce, sealed, None, out)
        except InvalidTag:
            raise StreamBroken(NOT_SEALED) from None

    def _next_sealed(self, size_bytes: int) -> tuple[bytes, memoryview]:
        """Take the next record out: its nonce, and what is sealed."""
        # First the nonce: it may bring a new key.
        nonce = self._key.next_nonce()
        begin = self._start + self._layer.length.size
        self._start = begin + size_bytes + TAG_BYTES
        return nonce, memoryview(self._buffer)[begin : self._start]

    def take_unopened(self) -> bytes:
        """What came and was not opened: it belongs to the layer that follows on this one."""
        rest = bytes(self._buffer[self._start : self._end])
        self._start = self._end
        return rest

    def on_tick(self) -> None:
        """Called every few seconds: a buffer that was not needed since shrinks."""
        held = self._end - self._start
        size = len(self._buffer)
        if size > _BUFFER_BYTES_MIN and self._most_bytes * 4 < size and held * 4 < size:
            self._move(max(_BUFFER_BYTES_MIN, size // 4), held)
        self._most_bytes = 0
