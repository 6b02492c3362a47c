"""The swarm's median clock, by which the age of signed records is judged."""

from __future__ import annotations

from collections import OrderedDict
from statistics import median_low

# Enough for a steady median, few enough that it costs nothing.
_VOTERS_MAX = 64


class MedianClock:
    """How far our wall clock is from the median of our peers' clocks, as they report them.

    A voter is an address range, as who has one has as many peers as it likes, or a peer of none.
    """

    def __init__(self) -> None:
        self._offsets_s: OrderedDict[str, float] = OrderedDict()
        self._offset_s: float | None = 0.0

    def on_answer(self, voter: str, their_wall_s: float, our_wall_s: float) -> None:
        """A peer said what time it believes it is; the newest word of each voter counts."""
        self._offsets_s[voter] = their_wall_s - our_wall_s
        self._offsets_s.move_to_end(voter)
        if len(self._offsets_s) > _VOTERS_MAX:
            self._offsets_s.popitem(last=False)
        self._offset_s = None

    @property
    def offset_s(self) -> float:
        """To be added to our wall time; zero while we have heard nobody."""
        if self._offset_s is None:
            self._offset_s = median_low(self._offsets_s.values())
        return self._offset_s
