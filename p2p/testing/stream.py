"""SimStream: one end of a simulated stream, with half-close, reset and back-pressure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum

import trio

from p2p.errors import RefusedError, StreamBroken
from p2p.host.stream import BreakScopes, Intake, Stream
from p2p.host.transport import ConnectionInfo
from p2p.testing.lane import Lane

# These are as in the real host; tests run both side by side.
WINDOW_BYTES = 1_048_576
"""What may be under way or unread; beyond it, send_all waits."""
_SWALLOWED_BYTES_MAX = 65_536
_ABANDONED_S_MAX = 30.0


class _End(Enum):
    """How a stream came to be unusable, if it did."""

    NOT_YET = "open"
    STOPPED = "the other side wants no more"
    RESET = "the stream was reset"
    LOST = "the connection was lost"


class SimStream(Stream):
    """One end of a stream; what is sent is posted on the connection's lane to the other end."""

    def __init__(
        self, info: ConnectionInfo, protocol: str, lane: Lane, forget: Callable[[SimStream], None]
    ) -> None:
        self.peer_id = info.peer_id
        self.address = info.address
        self.path = info.path
        self.protocol = protocol
        self._lane = lane
        self._forget = forget
        self._far: SimStream
        self._window_bytes = WINDOW_BYTES
        self._inbox: deque[memoryview] = deque()
        self._unread_bytes = 0
        self._swallowed_bytes = 0
        self._end = _End.NOT_YET
        self._broken = False
        self._break_scopes = BreakScopes()
        self._closed = False
        self._finished = False
        self._far_finished = False
        self._refusal_arrived = False
        self._refusal_told = False
        self._sending = False
        self._receiving = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._watchers = trio.lowlevel.ParkingLot()

    def attach(self, far: SimStream) -> None:
        """Make two ends one stream."""
        self._far = far
        far._far = self

    def __repr__(self) -> str:
        return f"<SimStream to {self.peer_id} {self.protocol}>"

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        # A copy lets the caller use its buffer again; bytes cannot change and need none.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        position = 0
        self._sending = True
        try:
            while position < len(view):
                self._check_sendable()
                turn_s, piece_bytes = self._lane.turn()
                size = int(min(len(view) - position, self._window_bytes, piece_bytes))
                if size and turn_s <= trio.current_time():
                    self._window_bytes -= size
                    self._lane.post(self._far.on_data, view[position : position + size], size)
                    position += size
                else:
                    await self._wait_for_room(turn_s if size else math.inf)
        except trio.Cancelled:
            if position:
                self.reset()
            raise
        finally:
            self._sending = False
        self._check_sendable()

    async def _wait_for_room(self, until_s: float) -> None:
        with trio.CancelScope(deadline=until_s):
            await self._writers.park()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self._end is not _End.NOT_YET:
            raise StreamBroken(self._end.value)
        if self._finished:
            raise trio.ClosedResourceError("the stream has been finished for sending")

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            self._check_sendable()
            while not self._window_bytes:
                await self._writers.park()
                self._check_sendable()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if not self._finished or self._closed or self._end is not _End.NOT_YET:
            self._check_sendable()
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._lane.post(self._far.on_finished, None)

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._receiving = True
        try:
            while not self._is_receivable():
                await self._readers.park()
        finally:
            self._receiving = False
        if not self._inbox:
            return b""
        data = self._take(max_bytes)
        self._far.on_room(len(data))
        return data

    def _is_receivable(self) -> bool:
        """Whether there are bytes or the end; raises when neither will ever come."""
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self._refusal_arrived and not self._refusal_told:
            self._refusal_told = True
            self.reset()
        if self._refusal_told:
            raise RefusedError("protocol-not-supported", self.protocol)
        # What came before the connection was lost is still good; after a reset it is gone.
        if self._inbox or (self._far_finished and self._end is not _End.RESET):
            return True
        if self._end is not _End.NOT_YET:
            raise StreamBroken(self._end.value)
        return False

    def _take(self, max_bytes: int | None) -> bytes:
        view = self._inbox.popleft()
        if max_bytes is not None and len(view) > max_bytes:
            self._inbox.appendleft(view[max_bytes:])
            view = view[:max_bytes]
        self._unread_bytes -= len(view)
        whole = view.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)

    async def fill(self, intake: Intake) -> None:
        while not intake.ready:
            data = await self.receive_some(intake.left_bytes)
            if data:
                intake.room(len(data))[:] = data
                intake.on_filled(len(data), trio.current_time())
            else:
                intake.on_end()

    async def receive_exactly(self, size_bytes: int) -> bytes:
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
            # A cancelled receive loses nothing.
            self._inbox.extendleft(memoryview(part) for part in reversed(parts))
            self._unread_bytes += size_bytes - left
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Ending

    def reset(self) -> None:
        if not self._closed:
            if self._end is _End.NOT_YET and not self._is_over:
                self._lane.post(self._far.on_reset, None)
            self._break(_End.RESET)

    @property
    def _is_over(self) -> bool:
        """Whether both sides have finished and everything has been read."""
        return self._finished and self._far_finished and not self._inbox

    def refuse(self) -> None:
        """Tell the opener that nobody serves the protocol here, and close."""
        self._lane.post(self._far.on_refused, None)
        self._closed = True
        self._abandon()

    async def aclose(self) -> None:
        if self._sending:
            # An orderly end would pass off half of what another task sends as all of it.
            self.reset()
        if not self._closed:
            self._closed = True
            if self._end is _End.NOT_YET:
                self._abandon()
            self._wake_all()
        await trio.lowlevel.checkpoint()

    def _abandon(self) -> None:
        """Close our side: what was sent still arrives, what comes is swallowed, within bounds."""
        if not self._finished:
            self._finish()
        if self._far_finished:
            self._forget(self)
        else:
            self._lane.source.expect(self, trio.current_time() + _ABANDONED_S_MAX)
        self._swallow(self._unread_bytes)
        self._inbox.clear()

    def _swallow(self, size_bytes: int) -> None:
        self._swallowed_bytes += size_bytes
        if self._swallowed_bytes > _SWALLOWED_BYTES_MAX and not self._far_finished:
            self._reset_abandoned()

    def _reset_abandoned(self) -> None:
        if self._end is _End.NOT_YET:
            self._lane.post(self._far.on_reset, None)
            self._end = _End.RESET
            self._forget(self)

    def on_due(self, now_s: float) -> None:
        """Our side closed long ago; if the other still has not, it is cut off."""
        if not self._far_finished:
            self._reset_abandoned()

    def cancelling_when_broken(self) -> AbstractContextManager[trio.CancelScope]:
        return self._break_scopes.open()

    async def wait_broken(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._broken:
            await self._watchers.park()

    def _break(self, end: _End) -> None:
        self._end = end
        if end is _End.RESET:
            self._inbox.clear()
            self._unread_bytes = 0
            self._refusal_arrived = False
        self._broken = True
        self._break_scopes.cancel()
        self._forget(self)
        self._wake_all()
        self._watchers.unpark_all()

    def _wake_all(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()

    # What arrives from the other end

    def on_data(self, data: memoryview) -> None:
        """Bytes have arrived."""
        if self._end is not _End.NOT_YET:
            return
        if self._closed:
            self._swallow(len(data))
            return
        self._inbox.append(data)
        self._unread_bytes += len(data)
        self._readers.unpark_all()

    def on_finished(self, _: None) -> None:
        """The other end sends no more."""
        self._far_finished = True
        if self._closed:
            self._forget(self)
        self._readers.unpark_all()

    def on_room(self, size_bytes: int) -> None:
        """The other end has taken bytes, so that more may be sent."""
        self._window_bytes += size_bytes
        self._writers.unpark_all()

    def on_reset(self, _: None) -> None:
        """The other end has reset the stream; if it had finished, what it sent is still good."""
        if self._closed:
            self._end = _End.RESET
            self._forget(self)
        elif self._end is _End.NOT_YET and not self._is_over:
            self._break(_End.STOPPED if self._far_finished else _End.RESET)

    def on_refused(self, _: None) -> None:
        """The other end does not serve the protocol; the first receive says so."""
        if self._end is not _End.RESET:
            self._refusal_arrived = True
        self._readers.unpark_all()

    def on_lost(self) -> None:
        """The connection is lost."""
        if self._closed:
            self._end = _End.LOST
        elif self._end is _End.NOT_YET:
            self._break(_End.LOST)
