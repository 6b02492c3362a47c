"""The control frames that a yamux session has to send, answers that it owes included (core)."""

from __future__ import annotations

from p2p.host.yamux_frame import YamuxViolation

ANSWERS_MAX = 8_192
"""Control frames that the peer makes us queue; one that asks on without reading is cut off."""


class ControlFrames:
    """Goes out before any data; counts what the peer made us say since it last read."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._answers = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, frame: bytes) -> None:
        """Send a frame of our own accord."""
        self._frames.append(frame)

    def add_answer(self, frame: bytes) -> None:
        """Send a frame that the peer caused; raises YamuxViolation when there are too many."""
        self._frames.append(frame)
        self.count_answer()

    def count_answer(self) -> None:
        """The frame added last was caused by the peer; raises YamuxViolation for too many."""
        self._answers += 1
        if self._answers > ANSWERS_MAX:
            raise YamuxViolation("the peer asks on and does not read the answers")

    def take(self) -> list[bytes]:
        """All of them, in order; they go out now."""
        frames, self._frames = self._frames, []
        self._answers = 0
        return frames

    def clear(self) -> None:
        """Nothing goes out any more."""
        self._frames.clear()
