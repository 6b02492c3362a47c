"""Keepalive: when to ping a peer, and when its silence means that it is lost (core).

    beat, nothing to do          nothing
    every fifth beat             PING; from the first one that stays unanswered, beats are counted
    every beat while watched     the same
    15 unanswered beats, or 5    LOST: 15 to 20 s after the last byte, or 5 to 6 while watched

Beats are counted, not seconds: a loop that was held up has heard nothing, but nobody was silent.
The count goes on whoever begins or ends to watch, or a round tried again and again would never
let a black hole be noticed.
"""

from __future__ import annotations

from enum import Enum

BEAT_S = 1.0
PING_BEATS = 5
LOST_BEATS = 15
"""So many beats after an unanswered ping the peer is lost."""
WATCHED_LOST_BEATS = 5
"""The same while somebody waits for this peer in particular; it is then pinged at every beat."""


class Beat(Enum):
    """What a beat calls for."""

    NOTHING = "nothing"
    PING = "ping"
    LOST = "lost"


class Keepalive:
    """One connection's; beats come every BEAT_S."""

    def __init__(self) -> None:
        self._beats = 0
        self._unanswered_beats: int | None = None

    def on_heard(self) -> None:
        """Something came from the peer."""
        self._unanswered_beats = None

    def on_beat(self, *, watched: bool) -> Beat:
        """Another BEAT_S has passed."""
        self._beats += 1
        if self._unanswered_beats is not None:
            self._unanswered_beats += 1
            if self._unanswered_beats >= (WATCHED_LOST_BEATS if watched else LOST_BEATS):
                return Beat.LOST
        if not watched and self._beats % PING_BEATS:
            return Beat.NOTHING
        if self._unanswered_beats is None:
            self._unanswered_beats = 0
        return Beat.PING
