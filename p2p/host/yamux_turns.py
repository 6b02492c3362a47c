"""Whose turn it is to send: streams that rested before those that always have more (core).

A stream that had nothing queued goes first, once, with a short frame; what it has beyond takes
turns with the others. So a small call passes the bulk beside it, however many streams that has.

Source: T. Hoeiland-Joergensen et al.: The Flow Queue CoDel Packet Scheduler, RFC 8290, 2018
(new queues and old queues).
"""

from __future__ import annotations

FIRST_FRAME_BYTES_MAX = 8_192
"""What a stream that rested may send ahead of others that wait."""


class Turns:
    """Stream ids in the order of their turns, each at most once."""

    def __init__(self) -> None:
        self._rested: dict[int, None] = {}
        self._steady: dict[int, None] = {}

    def __bool__(self) -> bool:
        return bool(self._rested or self._steady)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._rested or stream_id in self._steady

    def add(self, stream_id: int, *, rested: bool) -> None:
        """Line up; a stream that stands in a line already stays where it is."""
        if stream_id not in self:
            (self._rested if rested else self._steady)[stream_id] = None

    def discard(self, stream_id: int) -> None:
        """Leave the line."""
        self._rested.pop(stream_id, None)
        self._steady.pop(stream_id, None)

    def next(self, *, may_pass: bool) -> tuple[int, bool]:
        """Take the next stream out of the line, and whether it passes others that wait.

        Args:
            may_pass: false lets the steady ones go first, so that many short bursts do not starve
                them.
        """
        passes = bool(self._rested) and (may_pass or not self._steady)
        line = self._rested if passes else self._steady
        stream_id = next(iter(line))
        del line[stream_id]
        return stream_id, passes and bool(self._steady)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._rested.clear()
        self._steady.clear()
