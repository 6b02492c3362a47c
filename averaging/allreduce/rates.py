"""RateMeter: how fast this peer can send and receive, as its own transfers show (core).

What moves is a lower bound of what could: often it is the others that are slow. In a round of equal
spans all members carry the same and end together, so the means of the whole round are the same for
all, that of the slowest. Only while a fast member still has something for everybody does its own
link show. So a round's sample is its busiest half second but one, which the burst into empty
buffers at the beginning cannot raise, and the mean where a round is too short for that.

Of the recent rounds the best sample but one counts, and what is told to others changes only by
steps, so that spans stay where they are while rates merely waver.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Final

SAMPLE_BYTES_MIN: Final = 1 << 20
"""Less than a sample of this size fits in the buffers on the way and tells nothing."""
_SAMPLES: Final = 8
# The second best of several; of one or two the slowest, which is the safer start.
_BURSTS: Final = 1
_CHANGE_RATIO: Final = 1.2
_WINDOW_S: Final = 0.5
_WINDOWS_MIN: Final = 4
_BUSY_S_MIN: Final = 1e-3
# Above a gigabit it is the processor that limits, which waverings of a rate say nothing about.
_RATE_BYTES_PER_S_MAX: Final = 125e6


class Flow:
    """What moved in one direction during one round, half second by half second."""

    def __init__(self) -> None:
        self._bytes: defaultdict[int, float] = defaultdict(float)

    def on_moved(self, begun_s: float, ended_s: float, size_bytes: int) -> None:
        """So much moved between two moments, evenly as far as we know."""
        first, last = int(begun_s / _WINDOW_S), int(ended_s / _WINDOW_S)
        if first >= last:
            self._bytes[last] += size_bytes
            return
        per_s = size_bytes / (ended_s - begun_s)
        for window in range(first, last + 1):
            from_s = max(begun_s, window * _WINDOW_S)
            until_s = min(ended_s, (window + 1) * _WINDOW_S)
            self._bytes[window] += per_s * (until_s - from_s)

    @property
    def busiest_bytes_per_s(self) -> float | None:
        """The rate of the busiest half second but one; None of a short round."""
        if len(self._bytes) < _WINDOWS_MIN:
            return None
        return sorted(self._bytes.values())[-2] / _WINDOW_S


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
        self,
        sent_bytes: int,
        received_bytes: int,
        sending_s: float,
        receiving_s: float,
        *,
        sending: Flow | None = None,
        receiving: Flow | None = None,
    ) -> None:
        """Payload moved over the network, and the seconds in which it was under way.

        Waiting for data that others have yet to make is not busy time. Small rounds are added
        up until they make a sample.

        Args:
            sending: how what was sent was spread over the round.
            receiving: the same of what was received.
        """
        self._up.on_bytes(sent_bytes, sending_s, sending)
        self._down.on_bytes(received_bytes, receiving_s, receiving)


class _Direction:
    """Sending or receiving."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._bytes = 0
        self._busy_s = 0.0

    def on_bytes(self, moved_bytes: int, busy_s: float, flow: Flow | None) -> None:
        """More was moved."""
        if moved_bytes < 0 or not 0 <= busy_s < float("inf"):
            raise ValueError("bytes and seconds are not negative")
        self._bytes += moved_bytes
        self._busy_s += busy_s
        if self._bytes < SAMPLE_BYTES_MIN:
            return
        mean = self._bytes / max(self._busy_s, _BUSY_S_MIN)
        busiest = flow.busiest_bytes_per_s if flow is not None else None
        self._samples.append(mean if busiest is None else max(mean, busiest))
        self._bytes, self._busy_s = 0, 0.0
        best = sorted(self._samples, reverse=True)
        self._tell(best[min(_BURSTS, len(best) - 1)])

    def _tell(self, rate: float) -> None:
        told = self.bytes_per_s
        if told is None or not told / _CHANGE_RATIO <= rate <= told * _CHANGE_RATIO:
            self.bytes_per_s = rate


def told(rate_bytes_per_s: float | None) -> float | None:
    """A rate as the others are told it."""
    return None if rate_bytes_per_s is None else min(rate_bytes_per_s, _RATE_BYTES_PER_S_MAX)
