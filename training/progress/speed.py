"""How fast something goes, smoothed: samples, or calls."""

from __future__ import annotations

# One odd micro-batch hardly shows; after about twenty a changed speed is known.
_ALPHA = 0.1


class SpeedMeter:
    """Units per second from an average of seconds per unit that forgets slowly.

    Seconds per unit are averaged, not their inverse, so that a stall counts for what it cost.
    The first values are corrected for the average's start at zero.

    Source: D. Kingma and J. Ba, Adam (2015), section 3, for the correction.
    """

    def __init__(self) -> None:
        self._average = 0.0
        self._updates = 0

    def on_done(self, units: int, seconds: float) -> None:
        """So many took so long; waiting for others is not to be counted."""
        if units < 1 or seconds <= 0:
            return
        self._average += _ALPHA * (seconds / units - self._average)
        self._updates += 1

    @property
    def seconds_each(self) -> float:
        """Zero before the first measurement."""
        if self._updates == 0:
            return 0.0
        return self._average / (1.0 - (1.0 - _ALPHA) ** self._updates)

    @property
    def units_per_s(self) -> float:
        """Zero before the first measurement."""
        return 1.0 / self.seconds_each if self._updates else 0.0
