"""What a yamux session keeps of one stream: queues, windows, and who has finished (core)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from p2p.host.stream import Intake

INITIAL_WINDOW = 262_144
"""What either side may send on a new stream, as the specification fixes it."""
# Each piece of data is an object; small ones are joined, or a peer that sends single bytes would
# make us hold forty times what its window allows.
_SMALL_PIECE_BYTES = 1_024
_JOINED_PIECE_BYTES = 16_384


@dataclass
class StreamState:
    """One stream of a session."""

    inbound: bool
    inbox: deque[bytes | bytearray | memoryview] = field(default_factory=deque)
    unread_bytes: int = 0
    receive_window_bytes: int = INITIAL_WINDOW
    """What may be unread; the peer's credit is topped up to it."""
    credit_bytes: int = INITIAL_WINDOW
    """How much the peer may still send."""
    uncredited_bytes: int = 0
    granted_at_s: float | None = None
    """When the peer was last granted room."""
    send_window_bytes: int = INITIAL_WINDOW
    outbox: deque[memoryview] = field(default_factory=deque)
    unsent_bytes: int = 0
    finishing: bool = False
    fin_sent: bool = False
    remote_finished: bool = False
    stopped: bool = False
    """The peer wants no more of us, but had finished in order: what it sent is still good."""
    abandoned: bool = False
    """Our side has closed and reads no more."""
    abandoned_ticks: int = 0
    swallowed_bytes: int = 0
    reset_due: bool = False
    """What is queued goes out, then the stream is reset."""
    intake: Intake | None = None
    """Where what comes goes at once, since somebody waits for just that; then nothing is unread."""

    @property
    def over(self) -> bool:
        """Whether both sides have finished and everything has been read."""
        return self.fin_sent and self.remote_finished and not self.inbox

    @property
    def sendable(self) -> bool:
        """Whether something can go out now."""
        if self.outbox:
            return self.send_window_bytes > 0
        return self.finishing and not self.fin_sent

    def put(self, data: bytes) -> None:
        """Add what came to what is unread."""
        self.unread_bytes += len(data)
        if len(data) >= _SMALL_PIECE_BYTES:
            self.inbox.append(data)
            return
        last = self.inbox[-1] if self.inbox else None
        if isinstance(last, bytearray) and len(last) < _JOINED_PIECE_BYTES:
            last += data
        else:
            self.inbox.append(bytearray(data))

    def take(self, size_bytes: int) -> bytes:
        """Up to so many unread bytes, in order."""
        parts: list[bytes | bytearray | memoryview] = []
        left = size_bytes
        while left and self.inbox:
            part = self.inbox.popleft()
            if len(part) > left:
                # A view: many short reads of one large piece must not copy its rest each time.
                view = memoryview(part)
                self.inbox.appendleft(view[left:])
                part = view[:left]
            parts.append(part)
            left -= len(part)
        self.unread_bytes -= size_bytes - left
        if len(parts) == 1:
            return bytes(parts[0])
        return b"".join(parts)

    def take_into(self, out: memoryview) -> int:
        """Fill the buffer with unread bytes, in order, as far as they go; how many they are."""
        size = 0
        while size < len(out) and self.inbox:
            part = self.inbox.popleft()
            fits = min(len(part), len(out) - size)
            if fits < len(part):
                view = memoryview(part)
                self.inbox.appendleft(view[fits:])
                part = view[:fits]
            out[size : size + fits] = part
            size += fits
        self.unread_bytes -= size
        return size

    def drop_outbox(self) -> int:
        """Forget what is unsent; how many bytes it was."""
        dropped_bytes, self.unsent_bytes = self.unsent_bytes, 0
        self.outbox.clear()
        return dropped_bytes

    def cut(self, size_bytes: int) -> tuple[list[memoryview], int]:
        """Up to so many bytes off the head of what is unsent, and how many they are."""
        parts: list[memoryview] = []
        left = size_bytes
        while left and self.outbox:
            part = self.outbox.popleft()
            if len(part) > left:
                self.outbox.appendleft(part[left:])
                part = part[:left]
            parts.append(part)
            left -= len(part)
        size = size_bytes - left
        self.unsent_bytes -= size
        self.send_window_bytes -= size
        return parts, size
