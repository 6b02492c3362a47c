"""How much each stream may have unread: windows that grow with the path, within a budget (core).

A stream begins with the window that yamux fixes, 256 KiB, and is widened at once while there are
few. A window that is used up within two round trips holds its sender back, so it is doubled,
until it holds four times what is under way on the path (the bandwidth-delay product). One that is
used up in a moment is doubled, too: each grant is a small message, which costs both sides as much
as many kilobytes do. And when a large message begins whose reader has its room ready, the window
shall hold it and some more, or it would come in pieces.
What has been granted is a promise to hold so much, hence the budget is taken when it is granted.

Source: the receive window of hashicorp/yamux as go-libp2p grows it; V. Jacobson et al.: TCP
Extensions for High Performance, RFC 7323, for why windows must follow the path.
"""

from __future__ import annotations

from p2p.host.budget import Share
from p2p.host.yamux_stream import INITIAL_WINDOW, StreamState

RECEIVE_WINDOW = 1_048_576
"""What a stream may have unread from its beginning; granted in our first frame."""
WIDE_STREAMS_MAX = 16
"""So many streams at once get RECEIVE_WINDOW, the others the initial window: bulk is on few."""
RECEIVE_WINDOW_MAX = 16_777_216
"""How far a window grows: 1 Gbit/s over 130 ms."""
PROMISED_BYTES_MAX = 67_108_864
"""What windows may hold beyond RECEIVE_WINDOW, all of a connection together."""
_MESSAGES, _MESSAGES_BYTES_MAX = 4, 8_388_608
"""A window shall hold so many messages like the one that comes, but no more bytes than these."""
_ROUND_TRIPS = 2.0
GRANTS_APART_S = 0.05
"""Half a window should last so long, however short the path is."""
# A path may get longer; a longer answer counts an eighth, a shorter one at once.
_RTT_RISE = 0.125


class Windows:
    """The windows of all streams of one connection."""

    def __init__(self, promised: Share) -> None:
        self._promised = promised
        self._wide_count = 0
        self.rtt_s: float | None = None
        """The round trip of the path when it is idle; None until it has been measured."""

    def on_rtt(self, rtt_s: float) -> None:
        """A ping has been answered."""
        if self.rtt_s is None or rtt_s < self.rtt_s:
            self.rtt_s = rtt_s
        else:
            self.rtt_s += (rtt_s - self.rtt_s) * _RTT_RISE

    def grant(self, state: StreamState, now_s: float | None) -> int:
        """What to grant the sender now: what was taken, and more if the window is widened."""
        if state.receive_window_bytes < RECEIVE_WINDOW:
            if self._wide_count < WIDE_STREAMS_MAX:
                self._wide_count += 1
                self._widen(state, RECEIVE_WINDOW)
        elif self._is_held_back(state, now_s):
            wider = min(2 * state.receive_window_bytes, RECEIVE_WINDOW_MAX)
            more = wider - state.receive_window_bytes
            if self._promised.room >= more:
                self._promised.take(more)
                self._widen(state, wider)
        state.granted_at_s = now_s
        delta = state.uncredited_bytes
        state.uncredited_bytes = 0
        state.credit_bytes += delta
        return delta

    def make_room_for(self, state: StreamState, message_bytes: int) -> bool:
        """Widen the window for a message of which so much is to come; whether that is done."""
        wider = min(_MESSAGES * message_bytes, _MESSAGES_BYTES_MAX)
        more = wider - state.receive_window_bytes
        if more <= 0 or state.receive_window_bytes < RECEIVE_WINDOW or self._promised.room < more:
            return False
        self._promised.take(more)
        self._widen(state, wider)
        return True

    def _widen(self, state: StreamState, window_bytes: int) -> None:
        state.uncredited_bytes += window_bytes - state.receive_window_bytes
        state.receive_window_bytes = window_bytes

    def _is_held_back(self, state: StreamState, now_s: float | None) -> bool:
        return (
            now_s is not None
            and self.rtt_s is not None
            and state.granted_at_s is not None
            and now_s - state.granted_at_s < max(_ROUND_TRIPS * self.rtt_s, GRANTS_APART_S)
        )

    def forget(self, state: StreamState) -> None:
        """The stream has ended."""
        if state.receive_window_bytes > INITIAL_WINDOW:
            self._wide_count -= 1
            self._promised.give(state.receive_window_bytes - RECEIVE_WINDOW)

    def close(self) -> None:
        """The connection is lost: nothing is promised any more."""
        self._promised.close()
