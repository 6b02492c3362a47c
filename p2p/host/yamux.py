"""The yamux session: windows and stream states, without any input or output (core).

Source: hashicorp/yamux specification, version 0, as libp2p uses it (/yamux/1.0.0).

    open        SYN on our first frame, ACK on theirs; ids odd for the dialer, even otherwise
    data        counts against the receiver's window, which a WINDOW_UPDATE enlarges
    half-close  FIN each way; RST ends both ways at once

An RST of a peer that had sent FIN before only says that it wants no more: its data is complete,
and stays readable. So an answer given early survives the reset that stops the rest of a request.
"""

from __future__ import annotations

from p2p.host.budget import Share
from p2p.host.stream import Intake
from p2p.host.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    FrameReader,
    Received,
    RemoteIds,
    YamuxViolation,
    frame,
)
from p2p.host.yamux_stream import StreamState
from p2p.host.yamux_streams import YamuxStreams
from p2p.host.yamux_turns import FIRST_FRAME_BYTES_MAX
from p2p.host.yamux_window import RECEIVE_WINDOW_MAX

FRAME_DATA_MAX = 65_507
"""The data of one frame, unless the records beneath take more; with its header it fills a record
of Noise."""
INBOUND_STREAMS_MAX = 256
_SEND_WINDOW_MAX = 2**31
# A stream that we closed swallows this much of what was on its way, then resets the sender.
_SWALLOWED_BYTES_MAX = 65_536
# So many ticks after our close, a stream whose other side does not close is reset.
_ABANDONED_TICKS_MAX = 6


class YamuxSession(YamuxStreams):
    """Both directions of one connection; the owner moves bytes and wakes who waits."""

    def __init__(
        self,
        *,
        dialer: bool,
        unread: Share | None = None,
        unsent: Share | None = None,
        promised: Share | None = None,
        frame_data_max: int = FRAME_DATA_MAX,
    ) -> None:
        super().__init__(dialer=dialer, unread=unread, unsent=unsent, promised=promised)
        self._remote_ids = RemoteIds(parity=0 if dialer else 1)
        self._frame_data_max = frame_data_max
        self._pinged: tuple[int, float] | None = None
        self._reader = FrameReader()
        self._just_sent: set[int] = set()
        """Whose data is in the last batch: what follows on it has not rested."""
        self.remote_gone_away = False

    # What our side does.

    def open(self) -> int:
        """Open a stream; data may follow at once."""
        assert not self.exhausted
        stream_id = self._next_id
        self._next_id += 2
        state = StreamState(inbound=False)
        self._streams[stream_id] = state
        self._grant(stream_id, state, SYN, None)
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview) -> None:
        """Queue data; the owner bounds how much by room_bytes()."""
        state = self._streams[stream_id]
        assert not state.finishing
        if len(data):
            rested = not state.outbox and stream_id not in self._just_sent
            state.outbox.append(memoryview(data))
            state.unsent_bytes += len(data)
            self._unsent.take(len(data))
            self._line_up(stream_id, state, rested=rested)

    def finish(self, stream_id: int) -> None:
        """Send FIN after what is queued."""
        state = self._streams[stream_id]
        state.finishing = True
        self._line_up(stream_id, state, rested=not state.outbox)

    def abandon(self, stream_id: int) -> None:
        """Close our side: what is queued and FIN still go out, what comes is not wanted."""
        state = self._streams.get(stream_id)
        if state is None:
            return
        state.abandoned = True
        state.intake = None
        self._unread.give(state.unread_bytes)
        state.swallowed_bytes = state.unread_bytes
        state.unread_bytes = 0
        state.inbox.clear()
        if state.over:
            self._forget(stream_id)
            return
        self.finish(stream_id)
        self._stop_if_flooded(stream_id, state)

    def on_tick(self) -> None:
        """Called every few seconds: streams that we closed long ago are reset at last."""
        for stream_id, state in list(self._streams.items()):
            if state.abandoned:
                state.abandoned_ticks += 1
                if state.abandoned_ticks > _ABANDONED_TICKS_MAX:
                    self.reset(stream_id)

    def on_lost(self) -> None:
        """The connection is lost: nothing goes out any more; what has come may still be taken."""
        self._unread.close()
        self._unsent.close()
        self.windows.close()
        self._control.clear()
        self._turns.clear()
        for state in self._streams.values():
            state.outbox.clear()

    def take(self, stream_id: int, size_bytes: int, now_s: float | None = None) -> bytes:
        """Up to so many unread bytes, which grants the peer room; now_s may widen its window."""
        data = self._streams[stream_id].take(size_bytes)
        self._on_taken(stream_id, len(data), now_s)
        return data

    def fill(self, stream_id: int, intake: Intake, now_s: float) -> None:
        """Put in what is unread and what comes, while it is wanted, or until stop_filling()."""
        state = self._streams[stream_id]
        while state.unread_bytes and (left_bytes := intake.left_bytes):
            size_bytes = state.take_into(intake.room(left_bytes))
            intake.on_filled(size_bytes, now_s)
            self._on_taken(stream_id, size_bytes, now_s)
        left_bytes = intake.left_bytes
        state.intake = intake if left_bytes else None
        self._make_room(stream_id, state, left_bytes, now_s)

    def fills(self, stream_id: int, intake: Intake) -> bool:
        """Whether what comes goes there at once."""
        return self._streams[stream_id].intake is intake

    def stop_filling(self, stream_id: int) -> None:
        """What comes waits until it is taken."""
        if stream_id in self._streams:
            self._streams[stream_id].intake = None

    def place(self, size_bytes: int) -> memoryview | None:
        """Where the next so many bytes of the peer should go at once, if they belong together.

        on_placed() must follow; None means that on_bytes() should.
        """
        if self._reader.data_left_bytes < size_bytes:
            return None
        state = self._streams.get(self._reader.data_stream_id)
        if state is None or state.intake is None or state.intake.left_bytes < size_bytes:
            return None
        return state.intake.room(size_bytes)

    def on_placed(self, size_bytes: int, now_s: float, received: Received) -> None:
        """The peer's next bytes are where place() said."""
        stream_id = self._reader.data_stream_id
        flags = self._reader.skip(size_bytes)
        self._on_filled(stream_id, self._streams[stream_id], size_bytes, now_s, received)
        if flags:
            self._on_end_flags(stream_id, flags, received)

    def awaits_news(self, size_bytes: int, received: Received) -> bool:
        """Whether so many bytes come next for a stream whose user should hear what came before."""
        reader = self._reader
        return reader.data_left_bytes >= size_bytes and reader.data_stream_id in received.touched

    def _on_taken(self, stream_id: int, size_bytes: int, now_s: float | None) -> None:
        state = self._streams[stream_id]
        self._unread.give(size_bytes)
        self._credit(stream_id, state, size_bytes, now_s)
        if state.over:
            self._forget(stream_id)

    def ping(self, value: int, now_s: float | None = None) -> None:
        """Ask for a PING answer with this value (32 bits); its round trip counts if timed."""
        self._pinged = None if now_s is None else (value, now_s)
        self._control.add(frame(PING, SYN, 0, value))

    def go_away(self, code: int = 0) -> None:
        """Say that no new stream is welcome."""
        self._control.add(frame(GO_AWAY, 0, 0, code))

    def next_frames(self, limit_bytes: int) -> list[bytes | memoryview]:
        """Frames to send now: control first, then one frame of each waiting stream in turn.

        Each header and each run of data is a piece of its own; data is not copied.
        """
        frames: list[bytes | memoryview] = [*self._control.take()]
        self._just_sent.clear()
        size = sum(map(len, frames))
        while self._turns and size < limit_bytes:
            stream_id, passes = self._turns.next(may_pass=2 * size < limit_bytes)
            state = self._streams[stream_id]
            if state.outbox and state.send_window_bytes:
                most = FIRST_FRAME_BYTES_MAX if passes else min(self._frame_data_max, limit_bytes)
                parts, part_size = state.cut(min(most, state.send_window_bytes))
                self._unsent.give(part_size)
                self._just_sent.add(stream_id)
                frames.append(frame(DATA, 0, stream_id, part_size))
                frames += parts
                size += part_size + HEADER_BYTES
            if state.sendable and not state.outbox:
                self._append_fin(frames, stream_id, state)
            else:
                self._line_up(stream_id, state, rested=False)
        return frames

    def _append_fin(
        self, frames: list[bytes | memoryview], stream_id: int, state: StreamState
    ) -> None:
        state.fin_sent = True
        frames.append(frame(DATA, FIN, stream_id, 0))
        if state.over:
            self._forget(stream_id)
        elif state.reset_due:
            self._forget(stream_id)
            frames.append(frame(WINDOW_UPDATE, RST, stream_id, 0))

    # What the peer does.

    def on_bytes(
        self, data: bytes, now_s: float | None = None, received: Received | None = None
    ) -> Received:
        """Take in bytes of the peer.

        Args:
            now_s: times the answer to a ping; None leaves it untimed.
            received: what bytes before led to, which nobody has been told yet.

        Raises:
            YamuxViolation: they break the rules.
        """
        received = received or Received()
        for kind, flags, stream_id, length, piece in self._reader.read(data):
            if piece is not None:
                self._on_data(stream_id, flags, piece, now_s, received)
            else:
                received.frames += 1
                if kind == PING:
                    self._on_ping(flags, length, now_s)
                else:
                    self._on_frame(kind, flags, stream_id, length, received)
        return received

    def _on_ping(self, flags: int, value: int, now_s: float | None) -> None:
        if flags & SYN:
            self._control.add_answer(frame(PING, ACK, 0, value))
        elif self._pinged is not None and self._pinged[0] == value and now_s is not None:
            self.windows.on_rtt(now_s - self._pinged[1])
            self._pinged = None

    def _on_frame(
        self, kind: int, flags: int, stream_id: int, length: int, received: Received
    ) -> None:
        if kind == GO_AWAY:
            self.remote_gone_away = True
        elif kind in (DATA, WINDOW_UPDATE):
            self._on_stream_frame(kind, flags, stream_id, length, received)
        else:
            raise YamuxViolation(f"frame type {kind}")

    def _on_stream_frame(
        self, kind: int, flags: int, stream_id: int, length: int, received: Received
    ) -> None:
        if flags & SYN:
            self._on_syn(stream_id, received)
        state = self._streams.get(stream_id)
        if kind == DATA:
            if length > RECEIVE_WINDOW_MAX or (state is not None and length > state.credit_bytes):
                raise YamuxViolation(f"{length} bytes of data are beyond the window")
            if state is not None:
                state.credit_bytes -= length
                if length and state.remote_finished:
                    self._reset_remote(stream_id, received)
        elif state is not None:
            state.send_window_bytes = min(state.send_window_bytes + length, _SEND_WINDOW_MAX)
            self._line_up(stream_id, state, rested=False)
        if kind != DATA or not length:
            self._on_end_flags(stream_id, flags, received)

    def _on_syn(self, stream_id: int, received: Received) -> None:
        self._remote_ids.on_opened(stream_id)
        if self._inbound_count >= INBOUND_STREAMS_MAX:
            self._control.add_answer(frame(WINDOW_UPDATE, RST, stream_id, 0))
            return
        state = StreamState(inbound=True)
        self._streams[stream_id] = state
        self._inbound_count += 1
        self._grant(stream_id, state, ACK, None)
        self._control.count_answer()
        received.opened.append(stream_id)

    def _on_data(
        self, stream_id: int, flags: int, data: bytes, now_s: float | None, received: Received
    ) -> None:
        state = self._streams.get(stream_id)
        while state is not None and state.intake is not None and data:
            room = state.intake.room(len(data))
            room[:] = data[: len(room)]
            data = data[len(room) :]
            self._on_filled(stream_id, state, len(room), now_s, received)
        if state is not None and data:
            if state.abandoned:
                state.swallowed_bytes += len(data)
                self._stop_if_flooded(stream_id, state)
            elif self._unread.room < len(data):
                self._reset_remote(stream_id, received)
            else:
                state.put(data)
                self._unread.take(len(data))
            received.touched[stream_id] = None
        self._on_end_flags(stream_id, flags, received)

    def _on_filled(
        self,
        stream_id: int,
        state: StreamState,
        size_bytes: int,
        now_s: float | None,
        received: Received,
    ) -> None:
        intake = state.intake
        assert intake is not None
        if intake.on_filled(size_bytes, now_s or 0.0):
            received.touched[stream_id] = None
        self._credit(stream_id, state, size_bytes, now_s)
        left_bytes = intake.left_bytes
        if left_bytes:
            self._make_room(stream_id, state, left_bytes, now_s)
        else:
            state.intake = None

    def _on_end_flags(self, stream_id: int, flags: int, received: Received) -> None:
        state = self._streams.get(stream_id)
        if state is None or not flags & (FIN | RST):
            return
        received.touched[stream_id] = None
        if flags & RST:
            received.reset.append(stream_id)
            if state.remote_finished and not state.abandoned:
                self._stop(stream_id, state)
            else:
                self._forget(stream_id)
            return
        state.remote_finished = True
        if state.over:
            self._forget(stream_id)

    def _reset_remote(self, stream_id: int, received: Received) -> None:
        """Reset a stream for what the peer did; our owner of it hears of it."""
        self.reset(stream_id)
        received.reset.append(stream_id)
        received.touched[stream_id] = None

    def _stop_if_flooded(self, stream_id: int, state: StreamState) -> None:
        if state.swallowed_bytes > _SWALLOWED_BYTES_MAX and not state.remote_finished:
            # Our last words first: a reset must not overtake them.
            if state.fin_sent:
                self.reset(stream_id)
            else:
                state.reset_due = True
