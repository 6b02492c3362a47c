"""What both directions of a yamux session share: streams, budgets, and what waits (core)."""

from __future__ import annotations

from p2p.host.budget import Share
from p2p.host.yamux_control import ControlFrames
from p2p.host.yamux_frame import RST, STREAM_ID_END, WINDOW_UPDATE, frame
from p2p.host.yamux_stream import StreamState
from p2p.host.yamux_turns import Turns
from p2p.host.yamux_window import PROMISED_BYTES_MAX, Windows

UNREAD_BYTES_MAX = 67_108_864
"""Unread bytes of all streams together; the stream that goes beyond is reset."""
UNSENT_BYTES_MAX = 16_777_216
"""Queued bytes of all streams together; beyond it each stream may queue UNSENT_FLOOR_BYTES."""
UNSENT_FLOOR_BYTES = 16_384


class YamuxStreams:
    """The streams of a session, and the rules of their beginning, their credit and their end."""

    def __init__(
        self,
        *,
        dialer: bool,
        unread: Share | None,
        unsent: Share | None,
        promised: Share | None,
    ) -> None:
        self._streams: dict[int, StreamState] = {}
        self._next_id = 1 if dialer else 2
        self._inbound_count = 0
        self.windows = Windows(promised or Share.alone(PROMISED_BYTES_MAX))
        self._unread = unread or Share.alone(UNREAD_BYTES_MAX)
        self._unsent = unsent or Share.alone(UNSENT_BYTES_MAX)
        self._control = ControlFrames()
        self._turns = Turns()

    # Questions. A stream that is unknown has been reset or is closed both ways.

    def is_open(self, stream_id: int) -> bool:
        """Whether the stream has not been reset, and not been closed by both sides."""
        return stream_id in self._streams

    def room_bytes(self, stream_id: int, limit_bytes: int) -> int:
        """How much may be queued to keep at most limit_bytes unsent, and all within the budget."""
        unsent = self._streams[stream_id].unsent_bytes
        shared = max(self._unsent.room, UNSENT_FLOOR_BYTES - unsent)
        return max(0, min(limit_bytes - unsent, shared))

    def unread_bytes(self, stream_id: int) -> int:
        """How much has come and was not taken."""
        return self._streams[stream_id].unread_bytes

    def remote_finished(self, stream_id: int) -> bool:
        """Whether no more will come than what is unread."""
        return self._streams[stream_id].remote_finished

    def finished(self, stream_id: int) -> bool:
        """Whether we promised to send no more."""
        return self._streams[stream_id].finishing

    def unsent_bytes_of(self, stream_id: int) -> int:
        """What the stream has queued and not sent; nothing when it has ended."""
        state = self._streams.get(stream_id)
        return state.unsent_bytes if state else 0

    @property
    def unsent_bytes(self) -> int:
        """What all streams together have queued and not sent."""
        return self._unsent.used

    @property
    def exhausted(self) -> bool:
        """Whether all stream ids have been used; only a new connection helps."""
        return self._next_id >= STREAM_ID_END

    @property
    def has_frames(self) -> bool:
        """Whether something can be sent now."""
        return bool(self._control) or bool(self._turns)

    # What either direction does to a stream.

    def reset(self, stream_id: int) -> None:
        """End both ways now; what is queued or unread is dropped."""
        state = self._streams.get(stream_id)
        if state is not None:
            self._forget(stream_id)
            if not state.stopped:
                self._control.add(frame(WINDOW_UPDATE, RST, stream_id, 0))

    def _stop(self, stream_id: int, state: StreamState) -> None:
        """The peer wants no more: what is queued is dropped, what is unread stays."""
        self._turns.discard(stream_id)
        self._unsent.give(state.drop_outbox())
        state.stopped = state.finishing = state.fin_sent = True

    def _credit(
        self, stream_id: int, state: StreamState, size_bytes: int, now_s: float | None
    ) -> None:
        """So much is unread no more: the peer may send as much again."""
        state.uncredited_bytes += size_bytes
        if not state.remote_finished and state.uncredited_bytes * 2 >= state.receive_window_bytes:
            self._grant(stream_id, state, 0, now_s)

    def _make_room(
        self, stream_id: int, state: StreamState, left_bytes: int, now_s: float | None
    ) -> None:
        """So much is to come of what a reader waits for: let the peer send it at once."""
        if (
            left_bytes > state.credit_bytes
            and not state.remote_finished
            and self.windows.make_room_for(state, left_bytes)
        ):
            self._grant(stream_id, state, 0, now_s)

    def _line_up(self, stream_id: int, state: StreamState, *, rested: bool) -> None:
        if state.sendable:
            self._turns.add(stream_id, rested=rested)

    def _grant(self, stream_id: int, state: StreamState, flags: int, now_s: float | None) -> None:
        """Top the peer's credit up, and widen the window if there is reason and room."""
        delta = self.windows.grant(state, now_s)
        self._control.add(frame(WINDOW_UPDATE, flags, stream_id, delta))

    def _forget(self, stream_id: int) -> None:
        state = self._streams.pop(stream_id)
        self._turns.discard(stream_id)
        self._unsent.give(state.drop_outbox())
        self._unread.give(state.unread_bytes)
        self.windows.forget(state)
        if state.inbound:
            self._inbound_count -= 1
