"""FrameReader: takes the frames of a call off its stream, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

import trio

from p2p.errors import MessageInvalid, StreamBroken
from p2p.host.stream import Stream
from p2p.rpc import schema

BufferFor = Callable[[bytes, int], tuple[memoryview, Any]]
"""Given the body of a message and the size of its payload: where the payload goes, exactly, and
what Frame.read shall be."""

# A body takes memory as it comes, whatever size its frame says.
_BODY_PART_BYTES: Final = 16_384
# Beyond the one that its user works on: enough to keep bytes flowing meanwhile.
_AHEAD_MAX: Final = 1


class Frame(NamedTuple):
    """A whole frame."""

    kind: int
    body: bytes
    payload: memoryview
    read: Any = None
    """What was made of the body when its payload began to come."""


_EMPTY = memoryview(b"")


class _Part(Enum):
    HEADER = 1
    BODY = 2
    """Or a run of it."""
    PAYLOAD = 3


class FrameReader:
    """Reads frames; what a cancelled read has got is kept for the next."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._intake = FrameIntake(trio.current_time())

    @property
    def heard_at_s(self) -> float:
        """When bytes last came, within a frame too; on trio's clock."""
        return self._intake.heard_at_s

    async def next_untrusted(
        self, body_bytes_max: int, payload_bytes_max: int
    ) -> tuple[int, bytes, bytes] | None:
        """The next frame as (kind, body, payload), or None at an orderly end.

        Raises:
            MessageInvalid, StreamBroken: as next_into_untrusted() does.
        """
        received = await self.next_into_untrusted(body_bytes_max, payload_bytes_max, _new_buffer)
        if received is None:
            return None
        # What was made for a payload is nobody else's.
        return received.kind, received.body, bytes(received.payload) if received.payload else b""

    async def next_into_untrusted(
        self,
        body_bytes_max: int,
        payload_bytes_max: int,
        buffer_for: BufferFor,
        *,
        ahead: bool = False,
    ) -> Frame | None:
        """The same, with the payload in a buffer of the caller's.

        Args:
            buffer_for: what it raises is raised here.
            ahead: begin with the next frame, by the same limits and buffers, where its bytes come
                while the caller is busy with this one.

        Raises:
            MessageInvalid: over the limits (nothing is allocated for it).
            StreamBroken: lost, or ended within a frame.
        """
        intake = self._intake
        intake.expect(body_bytes_max, payload_bytes_max, buffer_for, ahead=ahead)
        # Also when a frame is there already, so that the next goes on.
        await self._stream.fill(intake)
        return intake.take()


class FrameIntake:
    """Cuts what comes into frames; one that is over the limits, or wrong, is the last (core)."""

    def __init__(self, now_s: float) -> None:
        self.heard_at_s = now_s
        self.reads_ahead = False
        self._frames: deque[Frame] = deque()
        self._error: Exception | None = None
        self._ended = False
        self._limits = 0, 0
        self._buffer_for: BufferFor = _new_buffer
        self._kind, self._body_left, self._payload_size = 0, 0, 0
        self._body = bytearray()
        self._read: Any = None
        self._begin(_Part.HEADER, memoryview(bytearray(schema.HEADER.size)))

    def _begin(self, part: _Part, buffer: memoryview) -> None:
        self._part, self._buffer, self._left, self._at = part, buffer, len(buffer), 0

    def expect(
        self, body_bytes_max: int, payload_bytes_max: int, buffer_for: BufferFor, *, ahead: bool
    ) -> None:
        """What frames that have not begun may be like."""
        self._limits = body_bytes_max, payload_bytes_max
        self._buffer_for, self.reads_ahead = buffer_for, ahead

    def take(self) -> Frame | None:
        """The next frame, or None at the end; raises what went wrong in its stead."""
        if self._frames:
            return self._frames.popleft()
        if self._error is not None:
            raise self._error
        return None

    # What the stream sees.

    @property
    def ready(self) -> bool:
        """Whether take() has something to say."""
        return bool(self._frames) or self._ended or self._error is not None

    @property
    def left_bytes(self) -> int:
        """How much is missing of what is read now."""
        if self._error is not None or len(self._frames) > (_AHEAD_MAX if self.reads_ahead else 0):
            return 0
        return self._left

    def room(self, size_bytes: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer[self._at : self._at + size_bytes]

    def on_filled(self, size_bytes: int, now_s: float) -> bool:
        """So many bytes are in; whether there is a frame more, or something is wrong."""
        self.heard_at_s = now_s
        self._at += size_bytes
        self._left -= size_bytes
        if self._left:
            return False
        match self._part:
            case _Part.HEADER:
                return self._on_header()
            case _Part.BODY:
                self._body += self._buffer
                self._body_left -= len(self._buffer)
                return self._go_on_with_body()
            case _Part.PAYLOAD:
                return self._add(self._buffer, self._read)

    def on_end(self) -> None:
        """No more will come."""
        if self._at or self._part is not _Part.HEADER:
            raise StreamBroken("the stream ended within a frame")
        self._ended = True

    # Each part, when it is there.

    def _on_header(self) -> bool:
        self._kind, body_size, payload_size = schema.HEADER.unpack(self._buffer)
        body_max, payload_max = self._limits
        if self._kind != schema.MESSAGE:
            body_max, payload_max = schema.CONTROL_BYTES_MAX, 0
        if body_size > body_max or payload_size > payload_max:
            sizes = f"{body_size} + {payload_size}"
            return self._fail(MessageInvalid(f"frame of {sizes} bytes is over the limits"))
        self._body_left, self._payload_size = body_size, payload_size
        return self._go_on_with_body()

    def _go_on_with_body(self) -> bool:
        if self._body_left:
            size_bytes = min(self._body_left, _BODY_PART_BYTES)
            self._begin(_Part.BODY, memoryview(bytearray(size_bytes)))
            return False
        if not self._payload_size:
            return self._add(_EMPTY, None)
        try:
            buffer, self._read = self._buffer_for(bytes(self._body), self._payload_size)
        except Exception as exc:  # it is the user's, who gets it from take()
            return self._fail(exc)
        assert len(buffer) == self._payload_size
        self._begin(_Part.PAYLOAD, buffer)
        return False

    def _add(self, payload: memoryview, read: Any) -> bool:
        self._frames.append(Frame(self._kind, bytes(self._body), payload, read))
        self._body.clear()
        self._read = None
        self._begin(_Part.HEADER, memoryview(bytearray(schema.HEADER.size)))
        return True

    def _fail(self, error: Exception) -> bool:
        self._error = error
        return True


def _new_buffer(body: bytes, size_bytes: int) -> tuple[memoryview, None]:
    return memoryview(bytearray(size_bytes)), None
