"""Noise sessions: encrypted records over a byte stream, read in large pieces."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.errors import StreamBroken
from p2p.host.handshake import SessionKeys
from p2p.metrics import RECEIVED_BYTES, SENT_BYTES

NOISE_PROTOCOL = "/noise"

RECORD_BYTES_MAX = 65_535
_LENGTH = struct.Struct(">H")
_TAG_BYTES = 16
_PLAINTEXT_MAX = RECORD_BYTES_MAX - _TAG_BYTES
_READ_BYTES = 262_144
# The Noise specification reserves the last nonce; we stop one before it (§5.1).
_NONCE_MAX = 2**64 - 2


class NoiseSession:
    """Encrypted bytes over a byte stream, after the handshake has proved who is there."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, keys: SessionKeys) -> None:
        self.peer_id = keys.peer_id
        self._stream = stream
        self._encrypt = ChaCha20Poly1305(keys.send_key)
        self._decrypt = ChaCha20Poly1305(keys.receive_key)
        self._sent_records = 0
        self._received_records = 0
        self._unread = bytearray()
        self._pushed_back = b""

    def push_back(self, plain: bytes) -> None:
        """Give back plaintext that the next receive() shall return."""
        self._pushed_back = plain

    async def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Encrypt and send; pieces that fit share a record, and all records one system call.

        A cancelled send ends the session, since half a record may be out.

        Raises:
            StreamBroken: the connection is lost.
        """
        out: list[bytes] = []
        for plain in _packed(pieces):
            if self._sent_records > _NONCE_MAX:
                raise StreamBroken("the connection has used up its nonces")
            nonce = b"\0\0\0\0" + self._sent_records.to_bytes(8, "little")
            self._sent_records += 1
            sealed = self._encrypt.encrypt(nonce, plain, None)
            out.append(_LENGTH.pack(len(sealed)))
            out.append(sealed)
        try:
            sealed_all = b"".join(out)
            await self._stream.send_all(sealed_all)
            SENT_BYTES.inc(len(sealed_all))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamBroken("the connection was lost") from exc

    async def send_eof(self) -> None:
        """Close our direction, after all that was sent; the peer can still send.

        Raises:
            StreamBroken: the connection is lost.
        """
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamBroken("the connection was lost") from exc

    async def receive(self) -> list[bytes]:
        """The plaintexts of all whole records that have come; empty at the end of the stream.

        Raises:
            StreamBroken: the connection is lost, or what came was not sealed by the peer.
        """
        if self._pushed_back:
            plain, self._pushed_back = self._pushed_back, b""
            return [plain]
        while True:
            plains = self._open_records()
            if plains:
                return plains
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise StreamBroken("the connection was lost") from exc
            if not data:
                return []
            RECEIVED_BYTES.inc(len(data))
            self._unread += data

    def _open_records(self) -> list[bytes]:
        plains: list[bytes] = []
        position = 0
        available = len(self._unread)
        with memoryview(self._unread) as view:
            while available - position >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(view, position)
                end = position + _LENGTH.size + size
                if end > available:
                    break
                nonce = b"\0\0\0\0" + self._received_records.to_bytes(8, "little")
                self._received_records += 1
                try:
                    plain = self._decrypt.decrypt(nonce, view[position + _LENGTH.size : end], None)
                except InvalidTag:
                    raise StreamBroken("a record was not sealed by the peer") from None
                if plain:
                    plains.append(plain)
                position = end
        if position:
            del self._unread[:position]
        return plains

    async def aclose(self) -> None:
        """Close the stream beneath."""
        await trio.aclose_forcefully(self._stream)


def _packed(pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The pieces regrouped into plaintexts of at most one record each, in order."""
    packed: list[bytes | memoryview] = []
    group: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > _PLAINTEXT_MAX and group:
            packed.append(group[0] if len(group) == 1 else b"".join(group))
            group, size = [], 0
        if len(piece) > _PLAINTEXT_MAX:
            view = memoryview(piece)
            packed += [
                view[start : start + _PLAINTEXT_MAX]
                for start in range(0, len(view), _PLAINTEXT_MAX)
            ]
            continue
        group.append(piece)
        size += len(piece)
    if group:
        packed.append(group[0] if len(group) == 1 else b"".join(group))
    return packed
