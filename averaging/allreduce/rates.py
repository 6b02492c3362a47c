"""RateMeter: how fast this peer can send and receive, as its own transfers show (core).

What a round moves in its busy seconds is a lower bound: often it is the others that are slow. So
what counts is the best of the recent samples but one, which a single burst into empty
buffers cannot raise, and what is told to others changes only by steps, so that spans stay
where they are while rates merely waver.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLE_BYTES_MIN: Final = 1 << 20
"""Less than a sample of this size fits in the buffers on the way and tells nothing."""
_SAMPLES: Final = 8
# The second best of several; of one or two the slowest, which is the safer start.
_BURSTS: Final = 1
_CHANGE_RATIO: Final = 1.2
_BUSY_S_MIN: Final = 1e-3


class RateMeter:
    """Fed after every round, or every stretch of one; starts with nothing known."""

    def __init__(self) -> None:
        self._up = _Direction()
        self._down = _Direction()

    @property
    def up_bytes_per_s(self) -> float | None:
        """How fast this peer can send; None until it has sent enough."""
        return self._up.bytes_per_s

    @property
    def down_bytes_per_s(self) -> float | None:
        """How fast this peer can receive; None until it has received enough."""
        return self._down.bytes_per_s

    def on_round(
        self, sent_bytes: int, received_bytes: int, sending_s: float, receiving_s: float
    ) -> None:
        """Payload moved over the network, and the seconds in which it was under way.

        Waiting for data that others have yet to make is not busy time. Small rounds are added
        up until they make a sample.
        """
        self._up.on_bytes(sent_bytes, sending_s)
        self._down.on_bytes(received_bytes, receiving_s)


class _Direction:
    """Sending or receiving."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._bytes = 0
        self._busy_s = 0.0

    def on_bytes(self, moved_bytes: int, busy_s: float) -> None:
        """More was moved."""
        if moved_bytes < 0 or not 0 <= busy_s < float("inf"):
            raise ValueError("bytes and seconds are not negative")
        self._bytes += moved_bytes
        self._busy_s += busy_s
        if self._bytes < SAMPLE_BYTES_MIN:
            return
        self._samples.append(self._bytes / max(self._busy_s, _BUSY_S_MIN))
        self._bytes, self._busy_s = 0, 0.0
        best = sorted(self._samples, reverse=True)
        self._tell(best[min(_BURSTS, len(best) - 1)])

    def _tell(self, rate: float) -> None:
        told = self.bytes_per_s
        if told is None or not told / _CHANGE_RATIO <= rate <= told * _CHANGE_RATIO:
            self.bytes_per_s = rate
