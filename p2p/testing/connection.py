"""ConnectionEnd: one end of a simulated connection, and the streams on it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import trio

from p2p.host.transport import ConnectionInfo
from p2p.peer_id import PeerId
from p2p.testing.lane import Lane
from p2p.testing.stream import SimStream

# The same as in p2p.host.yamux.
INBOUND_STREAMS_MAX = 256


class ConnectionOwner(Protocol):
    """The node's side of a connection."""

    peer_id: PeerId

    def is_serving(self, protocol: str) -> bool:
        """Whether a stream of this protocol is welcome."""

    def on_stream(self, stream: SimStream) -> None:
        """The other end has opened a stream."""

    def on_connected(self, end: ConnectionEnd) -> None:
        """The connection has been made."""

    def on_closed(self, end: ConnectionEnd) -> None:
        """The connection is gone, or never came about."""


class Phase(Enum):
    """Where a connection stands, seen from one end."""

    DIALING = "dialing"
    OPEN = "open"
    CLOSED = "closed"


class ConnectionEnd:
    """One end of a connection.

    DIALING --the other end accepts--> OPEN --closed, lost or silent for too long--> CLOSED
    DIALING --refused or given up----> CLOSED
    """

    def __init__(
        self, owner: ConnectionOwner, info: ConnectionInfo, lane: Lane, *, silence_s_max: float
    ) -> None:
        self.info = info
        self.phase = Phase.DIALING
        self.decided = trio.Event()
        """Set when dialing has succeeded or failed."""
        self.lost = trio.Event()
        self.failure = ""
        """Why dialing failed."""
        self._owner = owner
        self._lane = lane
        self._silence_s_max = silence_s_max
        self._cut_since_s: float | None = None
        self._streams: dict[SimStream, None] = {}
        self._inbound: dict[SimStream, None] = {}
        self.far: ConnectionEnd

    @property
    def relay(self) -> PeerId | None:
        """Through whom the connection leads, if not straight."""
        return self._lane.relay

    # Dialing

    def dial(self, expected: PeerId) -> None:
        """Ask the far end's node to accept; decided is set after a round trip."""
        self._lane.post(self.far.on_dialed, expected)

    def on_dialed(self, expected: PeerId) -> None:
        """Somebody dials this node, perhaps in search of another."""
        if self.phase is not Phase.DIALING or self.far.phase is not Phase.DIALING:
            return
        if expected != self._owner.peer_id:
            self._lane.post(self.far.on_dial_failed, "another peer answers there")
            self.close()
            return
        self._lane.post(self.far.on_accepted, None)
        self._open()

    def on_accepted(self, _: None) -> None:
        """The node that we dialed has accepted."""
        if self.phase is Phase.DIALING:
            self._open()
            self.decided.set()

    def on_dial_failed(self, cause: str) -> None:
        """The node that we dialed has not accepted."""
        if self.phase is Phase.DIALING:
            self.failure = cause
            self.close()

    def _open(self) -> None:
        self.phase = Phase.OPEN
        self._owner.on_connected(self)

    # Streams

    def open_stream(self, protocol: str) -> SimStream:
        """Open a stream; the other end hears of it after the link's delay."""
        near = SimStream(self.info, protocol, self._lane, self._forget)
        far = SimStream(self.far.info, protocol, self.far._lane, self.far._forget)
        near.attach(far)
        self._streams[near] = None
        self._lane.post(self.far.on_stream, far)
        return near

    def on_stream(self, stream: SimStream) -> None:
        """The other end has opened a stream."""
        if self.phase is not Phase.OPEN:
            return
        self._streams[stream] = None
        if len(self._inbound) >= INBOUND_STREAMS_MAX:
            stream.reset()
            return
        self._inbound[stream] = None
        if self._owner.is_serving(stream.protocol):
            self._owner.on_stream(stream)
        else:
            stream.refuse()

    def _forget(self, stream: SimStream) -> None:
        self._streams.pop(stream, None)
        self._inbound.pop(stream, None)

    # Ending

    def close(self) -> None:
        """Close at our end; the other end hears of it after all that was sent before."""
        if self.phase is not Phase.CLOSED:
            self._lane.post(self.far.on_closed, None)
            self.lose()

    def crash(self) -> None:
        """Lose both ends at once; what was under way is gone.

        Across a cut the other end cannot hear of it before the path is whole again.
        """
        if self._lane.is_cut:
            self.close()
        else:
            self.lose()
            self.far.lose()

    def on_closed(self, _: None) -> None:
        """The other end has closed."""
        self.lose()

    def lose(self) -> None:
        """The connection is gone as seen from here."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self.failure = self.failure or "connection refused (nothing listens there)"
        for stream in tuple(self._streams):
            stream.on_lost()
        self._streams.clear()
        self._inbound.clear()
        self._owner.on_closed(self)
        self.decided.set()
        self.lost.set()

    # Cuts

    def on_paths_changed(self) -> None:
        """Peers were frozen, thawed, parted or joined again, perhaps not the two of us."""
        if not self._lane.is_cut:
            self._cut_since_s = None
            self._lane.resume()
            self.far._lane.resume()
        elif self._cut_since_s is None:
            self._cut_since_s = trio.current_time()
            self._lane.source.expect(self, self._cut_since_s + self._silence_s_max)

    def on_due(self, now_s: float) -> None:
        """Notice that nothing has come for too long, as the real host's keepalive does."""
        silent = self._cut_since_s is not None and (
            now_s >= self._cut_since_s + self._silence_s_max
        )
        # A frozen node notices nothing; when it thaws it hears that the other end has closed.
        if silent and self.phase is Phase.OPEN and not self._lane.source_is_frozen:
            self.close()
