"""Secured sessions: sealed records over a byte stream, many to a system call."""

from __future__ import annotations

import functools
import math
import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

import trio

from p2p.errors import StreamBroken
from p2p.host.budget import Share
from p2p.host.handshake import SessionKeys
from p2p.host.records import (
    AES_GCM,
    BUFFERS_BYTES_MAX,
    KEY_BYTES,
    NOISE,
    RecordLayer,
    RecordReader,
    Sealer,
    aes_keys,
)
from p2p.metrics import RECEIVED_BYTES, SENT_BYTES

# For streams that cannot read into a buffer of ours.
_READ_BYTES = 262_144


class NoiseSession:
    """Encrypted bytes over a byte stream, after the handshake has proved who is there."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        keys: SessionKeys,
        *,
        held: Share | None = None,
    ) -> None:
        self.peer_id = keys.peer_id
        self.is_dialer = keys.is_dialer
        """Our part; on a connection that both dialed it need not be who dialed."""
        self.handshake_hash = keys.handshake_hash
        self.layer: RecordLayer = NOISE
        self.may_stay_s = math.inf
        """For how long the peer's token lets it stay."""
        self._stream = stream
        # Where sockets are file descriptors, we read into our own buffer and write without detour.
        self._socket = (
            stream.socket
            if isinstance(stream, trio.SocketStream) and hasattr(os, "readv")
            else None
        )
        self._keys: SessionKeys | None = keys
        self._held = held or Share.alone(BUFFERS_BYTES_MAX)
        self._sealer = Sealer(NOISE, keys.send_key, self._held)
        self._reader = RecordReader(NOISE, keys.receive_key, held=self._held)
        self._pushed_back = b""
        self._sending = False
        self._drained = False
        """Whether the last read took all that had come."""

    def switch_to_aes(self) -> None:
        """From now on seal and open AES-GCM records; both sides have agreed on it under Noise.

        The Noise keys are forgotten.
        """
        keys = self._keys
        assert keys is not None
        first, second = keys.send_key, keys.receive_key
        if not keys.is_dialer:
            first, second = second, first
        dialer_key, listener_key = aes_keys(first, second, keys.handshake_hash)
        send_key, receive_key = (
            (dialer_key, listener_key) if keys.is_dialer else (listener_key, dialer_key)
        )
        self.layer = AES_GCM
        came_before = self._reader.take_unopened()
        self._held.give(self._held.used)
        self._sealer = Sealer(AES_GCM, send_key, self._held)
        self._reader = RecordReader(AES_GCM, receive_key, came_before=came_before, held=self._held)
        self._keys = None

    def push_back(self, plain: bytes) -> None:
        """Give back plaintext that the next open_next() shall return."""
        self._pushed_back = plain

    async def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Seal and send; all records of the pieces in one system call if the socket takes them.

        A cancelled send ends the session, since half a record may be out.

        Raises:
            StreamBroken: the connection is lost.
        """
        await self.send_sealed(self.seal(pieces))
        await trio.lowlevel.cancel_shielded_checkpoint()

    def seal(self, pieces: Sequence[bytes | memoryview]) -> memoryview:
        """Seal pieces for send_sealed(), which must come before the next seal().

        Afterwards the pieces are not needed any more. Raises StreamBroken when no nonce is left.
        """
        return self._sealer.seal(pieces)

    async def send_sealed(self, sealed: memoryview) -> float | None:
        """Send what seal() returned; for how long the path made us wait, None for not at all.

        It need not give way to other tasks, so the caller must, now and then.

        Raises:
            StreamBroken: the connection is lost.
        """
        self._sending = True
        try:
            if self._socket:
                waited_s = await _write_all(self._socket, sealed)
            else:
                begun_s = trio.current_time()
                await self._stream.send_all(sealed)
                waited_s = trio.current_time() - begun_s
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamBroken("the connection was lost") from exc
        finally:
            self._sending = False
        SENT_BYTES.add(len(sealed))
        return waited_s

    def has_room_for(self, batch_bytes: int) -> bool:
        """Whether batches of this size fit into what our buffers may hold."""
        return self._held.room + self._sealer.buffer_bytes >= batch_bytes

    def set_pace(self, batch_bytes: int) -> None:
        """Let the kernel hold about a batch beyond what the path takes, and no more.

        So it never runs dry on a fast path, and on a slow one the next batch, with whatever small
        message has come meanwhile, need not wait behind megabytes.
        """
        if isinstance(self._stream, trio.SocketStream) and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):
                self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, batch_bytes)

    async def send_eof(self) -> None:
        """Close our direction, after all that was sent; the peer can still send.

        Raises:
            StreamBroken: the connection is lost.
        """
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamBroken("the connection was lost") from exc

    async def wait_record(self) -> int | None:
        """The size of the next plaintext, when its record has come whole; None at the end.

        Raises:
            StreamBroken: the connection is lost, or what came is no record.
        """
        while (size_bytes := self.next_size_bytes()) is None:
            if not await self._read():
                return None
        return size_bytes

    def next_size_bytes(self) -> int | None:
        """The size of the next plaintext, or None when its record has not come whole."""
        return len(self._pushed_back) or self._reader.next_size_bytes()

    def open_next(self, size_bytes: int) -> bytes:
        """The next plaintext, of the size that was given before; it may be empty.

        Raises:
            StreamBroken: what came was not sealed by the peer.
        """
        if self._pushed_back:
            plain, self._pushed_back = self._pushed_back, b""
            return plain
        return self._reader.open_next(size_bytes)

    def open_next_into(self, out: memoryview) -> None:
        """The same, into a buffer of that size."""
        if self._pushed_back:
            out[:] = self.open_next(len(out))
        else:
            self._reader.open_next_into(out)

    async def receive_one(self) -> bytes:
        """The next plaintext alone, whatever follows it; empty at the end of the stream.

        Raises:
            StreamBroken: as wait_record() and open_next().
        """
        while (size_bytes := await self.wait_record()) is not None:
            if plain := self.open_next(size_bytes):
                return plain
        return b""

    async def _read(self) -> int:
        """Read once; 0 at the end of the stream."""
        try:
            if self._socket:
                size = await self._read_into(self._socket)
            else:
                data = await self._stream.receive_some(_READ_BYTES)
                self._reader.add(data)
                size = len(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamBroken("the connection was lost") from exc
        RECEIVED_BYTES.add(size)
        return size

    async def _read_into(self, source: trio.socket.SocketType) -> int:
        """Read straight into the reader's buffer, which is not touched while we wait."""
        await trio.lowlevel.checkpoint_if_cancelled()
        # To try at once would be in vain most of the time; a socket that was closed says so below.
        waited = self._drained and source.fileno() >= 0
        if waited:
            await trio.lowlevel.wait_readable(source.fileno())
        while True:
            try:
                with self._reader.room() as room:
                    room_bytes = len(room)
                    size = os.readv(source.fileno(), [room])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(source.fileno())
                waited = True
            else:
                self._reader.on_read(size)
                self._drained = size < room_bytes
                if not waited:
                    # Others get their turn, however fast the peer sends.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return size

    def on_tick(self) -> None:
        """Called every few seconds: buffers that were not needed since are given back."""
        self._reader.on_tick()
        if not self._sending:
            self._sealer.on_tick()

    def leave_nothing_behind(self) -> None:
        """Have the socket close with a reset, for a peer that is not heard of any more.

        Else the kernel would repeat its last bytes for minutes, and nobody could connect the same
        two ports meanwhile, as the next punch wants to.
        """
        if isinstance(self._stream, trio.SocketStream):
            no_time = struct.pack("ii", 1, 0)
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)

    async def aclose(self) -> None:
        """Close the stream beneath; the buffers are held no more."""
        self._held.close()
        await trio.aclose_forcefully(self._stream)


async def _write_all(target: trio.socket.SocketType, data: memoryview) -> float | None:
    """What a socket stream's send_all() does, without what it costs for each small message.

    Returns how long it took from when the socket would take no more, or None if it took all.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    waits_since_s: float | None = None
    while data:
        try:
            data = data[os.write(target.fileno(), data) :]
        except BlockingIOError:
            if waits_since_s is None:
                waits_since_s = trio.current_time()
            await trio.lowlevel.wait_writable(target.fileno())
    return None if waits_since_s is None else trio.current_time() - waits_since_s


@functools.cache
def is_aes_faster() -> bool:
    """Whether this machine moves bytes faster in AES-GCM records than in ChaCha20-Poly1305 ones.

    With AES instructions it seals them in less time, without them in many times as long. Up to
    twice as long is made good by their size, so a busy machine's unlucky measurement is, too.
    """
    return _sealing_seconds(AES_GCM) < 2 * _sealing_seconds(NOISE)


def _sealing_seconds(layer: RecordLayer) -> float:
    aead, plain = layer.cipher(bytes(KEY_BYTES)), bytes(65_536)
    times = []
    for number in range(5):
        begun = time.perf_counter()
        aead.encrypt(number.to_bytes(12, "little"), plain, None)
        times.append(time.perf_counter() - begun)
    return min(times)
