"""Eta: how long a run still takes, from when its last steps were made (core)."""

from __future__ import annotations

from collections import deque

# Peers come and go: what was minutes ago says little.
_STEPS_LOOKED_AT = 30


class Eta:
    """The time until the last step, at the pace of the latest ones."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._made: deque[tuple[int, float]] = deque(maxlen=_STEPS_LOOKED_AT)

    def restart(self, step: int, time_s: float) -> None:
        """The run is at this step without having computed its way there."""
        self._made.clear()
        self._made.append((step, time_s))

    def on_step(self, step: int, time_s: float) -> None:
        """A step was made."""
        self._made.append((step, time_s))

    @property
    def left_s(self) -> float | None:
        """None before there is a pace."""
        if len(self._made) < 2:
            return None
        (first, began_s), (last, ended_s) = self._made[0], self._made[-1]
        if last <= first or ended_s < began_s:
            return None
        return max(0, self._steps - last) * (ended_s - began_s) / (last - first)


def in_words(seconds: float) -> str:
    """A time as people say it: in one unit, or two where that matters."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{round(hours / 24)} days"
