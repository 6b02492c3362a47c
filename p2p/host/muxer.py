"""Muxer: drives one yamux session over one Noise session, and hands out its streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from p2p.errors import StreamBroken
from p2p.host.budget import Share
from p2p.host.keepalive import BEAT_S, PING_BEATS, Beat, Keepalive
from p2p.host.muxed_stream import MuxedStream
from p2p.host.noise import NoiseSession
from p2p.host.yamux import YamuxSession
from p2p.host.yamux_frame import Received, YamuxViolation

BATCH_BYTES_MIN, BATCH_BYTES_MAX = 32_768, 2_162_688
"""What is sealed and handed to the socket at once; what comes meanwhile waits for it."""
_BATCH_S_SHORT, _BATCH_S_LONG = 0.008, 0.02
FAREWELL_S = 1.0
"""How long a leaving side waits for its last words to get out and the peer to hang up."""
# Opened straight into the buffer of whoever waits for it; for less, that is not worth the asking.
_LARGE_BYTES = 16_384
# A read full of tiny frames takes as long to digest as a hundred ordinary ones.
_FRAMES_PER_TURN = 1_024


class Muxer:
    """A connection's reader, writer and keepalive; run() lasts as long as the connection."""

    def __init__(
        self,
        noise: NoiseSession,
        *,
        dialer: bool,
        on_stream: Callable[[MuxedStream], None],
        unread: Share | None = None,
        unsent: Share | None = None,
        promised: Share | None = None,
    ) -> None:
        self.session = YamuxSession(
            dialer=dialer,
            unread=unread,
            unsent=unsent,
            promised=promised,
            frame_data_max=noise.layer.frame_data_bytes_max,
        )
        self._noise = noise
        self._on_stream = on_stream
        self._streams: dict[int, MuxedStream] = {}
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        self._leaving = False
        self._keepalive = Keepalive()
        self._watchers = 0
        self.lost = trio.Event()
        self.cause = "closed by the peer"
        """Why the connection was lost, once it is."""

    @property
    def usable(self) -> bool:
        """Whether new streams can be opened."""
        return not (
            self.lost.is_set()
            or self._leaving
            or self.session.remote_gone_away
            or self.session.exhausted
        )

    @property
    def stream_count(self) -> int:
        """How many streams are in use."""
        return len(self._streams)

    def open_stream(self) -> MuxedStream:
        """A new stream; raises StreamBroken when the connection is lost or going away."""
        if not self.usable:
            raise StreamBroken("the connection is closing")
        return self._add(self.session.open())

    def _add(self, stream_id: int) -> MuxedStream:
        stream = self._streams[stream_id] = MuxedStream(self, stream_id)
        return stream

    def forget_stream(self, stream_id: int) -> None:
        """The user of the stream has closed or reset it."""
        self._streams.pop(stream_id, None)

    def wake_writer(self) -> None:
        """There may be something to send."""
        if self.session.has_frames or self._leaving:
            self._wake.set()

    async def run(self) -> None:
        """Move bytes until the connection is lost or aborted; raises for neither."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except* StreamBroken as group:
            self.cause = str(group.exceptions[0])
        except* YamuxViolation as group:
            self.cause = f"yamux violation: {group.exceptions[0]}"
        finally:
            self.lost.set()
            self.session.on_lost()
            for stream in tuple(self._streams.values()):
                stream.mark_lost()
            self._streams.clear()
            await self._noise.aclose()

    def abort(self, cause: str) -> None:
        """End the connection now; run() returns soon."""
        if not self.lost.is_set():
            self.cause = cause
            self._scope.cancel()

    async def say_farewell(self) -> None:
        """Tell the peer that we leave, let what is queued go out, and see the peer hang up.

        A peer that does not hang up in FAREWELL_S is left as it is. Closing before it has read
        everything could destroy our last words on their way.
        """
        if not self.lost.is_set() and not self._leaving:
            self._leaving = True
            self.session.go_away()
            self.wake_writer()
        with trio.move_on_after(FAREWELL_S):
            await self.lost.wait()

    async def aclose(self) -> None:
        """Say farewell and end the connection."""
        await self.say_farewell()
        self.abort("closed by us")
        await self.lost.wait()

    async def _read(self) -> None:
        noise, session = self._noise, self.session
        while (size_bytes := await noise.wait_record()) is not None:
            self._keepalive.on_heard()
            now_s = trio.current_time()
            received = Received()
            while size_bytes is not None:
                large = size_bytes >= _LARGE_BYTES
                place = session.place(size_bytes) if large else None
                if received.frames > _FRAMES_PER_TURN or (
                    large and place is None and session.awaits_news(size_bytes, received)
                ):
                    # What came before may tell a stream's user where it wants what comes now.
                    self._tell(received)
                    received = Received()
                    await trio.lowlevel.checkpoint()
                    place = session.place(size_bytes) if large else None
                if place is None:
                    session.on_bytes(noise.open_next(size_bytes), now_s, received)
                else:
                    noise.open_next_into(place)
                    session.on_placed(size_bytes, now_s, received)
                size_bytes = noise.next_size_bytes()
            self._tell(received)

    def _tell(self, received: Received) -> None:
        """Tell the users of streams what has come."""
        for stream_id in received.opened:
            # It may have been reset in the same breath.
            if self.session.is_open(stream_id):
                self._welcome(self._add(stream_id))
        for stream_id in received.reset:
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                stream.mark_broken()
        for stream_id in received.touched:
            stream = self._streams.get(stream_id)
            if stream is not None:
                stream.on_news()
        self.wake_writer()

    def _welcome(self, stream: MuxedStream) -> None:
        if self._leaving:
            stream.reset()
        else:
            self._on_stream(stream)

    async def _write(self) -> None:
        batch_bytes = BATCH_BYTES_MIN
        while True:
            sealed = self._next_sealed(batch_bytes)
            if sealed:
                waited_s = await self._noise.send_sealed(sealed)
                # On a slow path short batches, or a small message would wait for all of a long one.
                if waited_s and waited_s > _BATCH_S_LONG and batch_bytes > BATCH_BYTES_MIN:
                    batch_bytes = max(int(batch_bytes * _BATCH_S_LONG / waited_s), BATCH_BYTES_MIN)
                    self._noise.set_pace(batch_bytes)
                elif (
                    (waited_s or 0.0) < _BATCH_S_SHORT
                    and len(sealed) > batch_bytes < BATCH_BYTES_MAX
                    and self._noise.has_room_for(longer := min(2 * batch_bytes, BATCH_BYTES_MAX))
                ):
                    batch_bytes = longer
                    self._noise.set_pace(batch_bytes)
                if waited_s is None and self.session.has_frames:
                    # Others get their turn; else they have it while we wait for something to send.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                continue
            if self._leaving and not self.session.unsent_bytes:
                await self._noise.send_eof()
                return
            self._wake = trio.Event()
            await self._wake.wait()

    def _next_sealed(self, batch_bytes: int) -> memoryview | None:
        """What goes out next, sealed, so that nobody's buffer is held while it does."""
        frames = self.session.next_frames(batch_bytes)
        if not frames:
            return None
        sealed = self._noise.seal(frames)
        # Room has come free in the streams: who waits can queue more while this goes out.
        for stream in self._streams.values():
            if stream.sending:
                stream.on_room()
        return sealed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block lasts, silence is noticed in 5 to 6 s instead of 15 to 20."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def _keep_alive(self) -> None:
        beats = 0
        # At once, so that the round trip is known; silence counts from the first beat.
        self._ping(beats)
        while True:
            await trio.sleep(BEAT_S)
            beats = (beats + 1) % 2**32
            beat = self._keepalive.on_beat(watched=self._watchers > 0)
            if beat is Beat.LOST:
                self._noise.leave_nothing_behind()
                self.abort("silent for too long")
                return
            if beat is Beat.PING:
                self._ping(beats)
            if beats % PING_BEATS == 0:
                self.session.on_tick()
                self._noise.on_tick()

    def _ping(self, value: int) -> None:
        self.session.ping(value, trio.current_time())
        self.wake_writer()
