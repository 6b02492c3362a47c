"""MuxedStream: one stream of a muxed connection, before anybody has agreed on its protocol."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import trio

from p2p.errors import StreamBroken
from p2p.host.stream import BreakScopes, Intake
from p2p.host.yamux import YamuxSession

STREAM_UNSENT_BYTES_MAX = 2_162_688
"""What one stream may have queued; beyond it, send_all waits. A message of 2 MiB fits in whole, so
that its sender is woken once for it."""
# What a handler that does not say how much it wants gets at once: a whole piece of a large frame.
_READ_BYTES = 262_144
# What a caller may change again is copied if it is small; else sending waits until it is sealed.
_COPIED_BYTES_MAX = 32_768


class StreamOwner(Protocol):
    """What a stream needs of its connection."""

    session: YamuxSession

    def wake_writer(self) -> None:
        """There may be something to send."""

    def forget_stream(self, stream_id: int) -> None:
        """The user of the stream has closed or reset it."""


class MuxedStream:
    """Never touches the socket: it only queues and takes, so a cancellation harms nobody else."""

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        self._owner = owner
        self._session = owner.session
        self._id = stream_id
        self._news = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._pushed_back: list[bytes] = []
        self._receiving = False
        self._closed = False
        self._ended = False
        self.sending = False
        """Whether a task is sending, perhaps waiting for room."""
        self._awaits_sealing = False
        self.broken = False
        self._break_scopes = BreakScopes()

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all data within the bounds; a cancellation midway resets the stream.

        Large data that can change (a bytearray, a memoryview) is not copied: the call returns when
        all of it has been sealed, and the caller may use its buffer again.
        """
        if self.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data).cast("B")
        borrowed = not isinstance(data, bytes)
        if borrowed and len(view) <= _COPIED_BYTES_MAX:
            view, borrowed = memoryview(bytes(view)), False
        position = 0
        self.sending = True
        try:
            while position < len(view):
                position += self._queue(view[position:])
                if position < len(view):
                    await self._writers.park()
            self._awaits_sealing = borrowed
            while borrowed and self._session.unsent_bytes_of(self._id):
                await self._writers.park()
        except trio.Cancelled:
            if position:
                self.reset()
            raise
        finally:
            self.sending = self._awaits_sealing = False
            # The traceback of an error must not keep the caller's buffer from being resized.
            view.release()
        self._check_sendable()

    def _queue(self, view: memoryview) -> int:
        self._check_sendable()
        room = self._session.room_bytes(self._id, STREAM_UNSENT_BYTES_MAX)
        part = view[:room]
        if part:
            self._session.send(self._id, part)
            self._owner.wake_writer()
        return len(part)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be queued."""
        if self.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self.sending = True
        try:
            self._check_sendable()
            while not self._session.room_bytes(self._id, STREAM_UNSENT_BYTES_MAX):
                await self._writers.park()
                self._check_sendable()
        finally:
            self.sending = False

    async def send_eof(self) -> None:
        """Promise to send no more; harmless when repeated."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self.broken:
            raise StreamBroken("the stream was reset or its connection lost")
        if self._session.is_open(self._id):
            self._session.finish(self._id)
            self._owner.wake_writer()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self.broken:
            raise StreamBroken("the stream was reset or its connection lost")
        if not self._session.is_open(self._id) or self._session.finished(self._id):
            raise trio.ClosedResourceError("the stream has been finished for sending")

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes as soon as there are any; empty at the end."""
        limit = max_bytes if max_bytes is not None else _READ_BYTES
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._receiving = True
        try:
            while (data := self._take(limit)) is None:
                await self._news.park()
        finally:
            self._receiving = False
        return data

    async def fill(self, intake: Intake) -> None:
        """Receive until the intake is ready, straight into it."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._receiving = True
        try:
            if intake.reads_ahead and self._may_fill():
                self._let_fill(intake)
            while not intake.ready:
                if not self._may_fill():
                    self._put(intake, self._take(intake.left_bytes))
                    continue
                self._let_fill(intake)
                if not intake.ready:
                    await self._news.park()
        finally:
            self._receiving = False
            if not intake.reads_ahead:
                self._session.stop_filling(self._id)

    def _let_fill(self, intake: Intake) -> None:
        """Put in what has come, and let what comes go there at once."""
        if self._session.fills(self._id, intake):
            return
        self._session.fill(self._id, intake, trio.current_time())
        self._owner.wake_writer()
        self._ended = not self._session.is_open(self._id)

    def _may_fill(self) -> bool:
        """Whether bytes are there, or may come, that are not read in another way."""
        session = self._session
        return (
            not (self._pushed_back or self._closed or self.broken)
            and session.is_open(self._id)
            and (session.unread_bytes(self._id) > 0 or not session.remote_finished(self._id))
        )

    def _put(self, intake: Intake, data: bytes | None) -> None:
        if data:
            intake.room(len(data))[:] = data
            intake.on_filled(len(data), trio.current_time())
        else:
            intake.on_end()

    def _take(self, limit: int) -> bytes | None:
        """What can be had at once: bytes, the end, or None for nothing yet."""
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self._pushed_back:
            return self._take_pushed_back(limit)
        session = self._session
        # What came before the connection was lost is still good; after a reset it is gone.
        if session.is_open(self._id):
            if session.unread_bytes(self._id):
                data = session.take(self._id, limit, trio.current_time())
                self._owner.wake_writer()
                self._ended = not session.is_open(self._id)
                return data
            if session.remote_finished(self._id):
                return b""
        if self._ended:
            return b""
        if self.broken:
            raise StreamBroken("the stream was reset or its connection lost")
        return None if session.is_open(self._id) else b""

    def _take_pushed_back(self, limit: int) -> bytes:
        part = self._pushed_back.pop(0)
        if len(part) > limit:
            self._pushed_back.insert(0, part[limit:])
            part = part[:limit]
        return part

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """Exactly so many bytes; a cancelled call gives back what it had."""
        if size_bytes and (data := await self._take_exactly(size_bytes)):
            return data
        parts: list[bytes] = []
        left = size_bytes
        try:
            while left:
                part = await self.receive_some(left)
                if not part:
                    raise StreamBroken(f"the stream ended {left} bytes early")
                parts.append(part)
                left -= len(part)
        except trio.Cancelled:
            self._pushed_back[:0] = parts
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _take_exactly(self, size_bytes: int) -> bytes:
        """All of it if it has come already, which is how most small messages are read."""
        session = self._session
        if (
            self._pushed_back
            or self._receiving
            or self._closed
            or not session.is_open(self._id)
            or session.unread_bytes(self._id) < size_bytes
        ):
            return b""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._take(size_bytes) or b""

    # The end

    def reset(self) -> None:
        """End both ways at once."""
        if not self._closed:
            self._session.reset(self._id)
            self._owner.wake_writer()
            self._owner.forget_stream(self._id)
            self._pushed_back.clear()
            self._ended = False
            self.mark_broken()

    async def aclose(self) -> None:
        """Close: what is queued still goes out, what comes is not read."""
        if self.sending:
            # Half of what another task sends is queued; an orderly end would pass it off as all.
            self.reset()
        if not self._closed:
            self._closed = True
            self._session.abandon(self._id)
            self._owner.wake_writer()
            self._owner.forget_stream(self._id)
            self.on_news()
        await trio.lowlevel.checkpoint()

    def cancelling_when_broken(self) -> AbstractContextManager[trio.CancelScope]:
        """A scope that is cancelled when the stream breaks."""
        return self._break_scopes.open()

    async def wait_broken(self) -> None:
        """Wait for a reset or the loss of the connection; an orderly end does not count."""
        while not self.broken:
            await self._news.park()

    def on_news(self) -> None:
        """Wake whoever waits on this stream."""
        self._news.unpark_all()
        self._writers.unpark_all()

    def on_room(self) -> None:
        """Something has gone out: wake who sends, if that is what it waits for."""
        if not (self._awaits_sealing and self._session.unsent_bytes_of(self._id)):
            self._writers.unpark_all()

    def mark_broken(self) -> None:
        """The stream has been reset, or its connection lost."""
        self.broken = True
        self._break_scopes.cancel()
        self.on_news()

    def mark_lost(self) -> None:
        """The connection is lost; a stream that both sides had finished stays well ended."""
        self._ended = self._ended or not self._session.is_open(self._id)
        self.mark_broken()
