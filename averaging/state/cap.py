"""UploadCap: when a donor may send the next chunk, all newcomers taken together (core).

Two limits, of which the stricter holds: a rate of the donor's own, and a share of what its uplink
carries, while something else needs the uplink. A chunk passes whole when its turn has come, and
leaves a debt of which the next one waits for the end, so chunks may be larger than what passes in a
second. Turns come in the order in which they were asked for. A download has one turn at a time,
so newcomers get alike, however many there are.
"""

from __future__ import annotations

from p2p import Pace

# Waiting for less is beneath the clocks and timers of usual systems.
_WAIT_S_MIN = 1e-3


class _Limit:
    """One rate."""

    def __init__(self, bytes_per_s: float, now_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.pace = Pace(bytes_per_s, now_s)

    def wait_s(self, ahead_bytes: int, now_s: float) -> float:
        """Until the debt is paid, and that of the chunks ahead."""
        return self.pace.take(0, now_s) + ahead_bytes / self.bytes_per_s


class UploadCap:
    """Gives turns to send."""

    def __init__(self, bytes_per_s: float | None, uplink_share: float | None, now_s: float) -> None:
        self._own = None if bytes_per_s is None else _Limit(bytes_per_s, now_s)
        self._share = uplink_share
        self._shared: _Limit | None = None
        self._turns: dict[int, int] = {}
        self._next_turn = 0

    def on_wanted(self, size_bytes: int) -> int:
        """So much is to be sent; the number of its turn."""
        turn = self._next_turn
        self._next_turn += 1
        self._turns[turn] = size_bytes
        return turn

    def take(self, turn: int, uplink_bytes_per_s: float | None, now_s: float) -> float:
        """Send now, or wait.

        Args:
            uplink_bytes_per_s: what the uplink carries, if something else needs it now; None if
                nothing does, or nobody knows.

        Returns:
            0 when the turn has come: what it is for counts as sent. Else the seconds after which to
            ask again; sooner does no harm.
        """
        limits = self._limits(uplink_bytes_per_s, now_s)
        ahead_bytes = sum(size for other, size in self._turns.items() if other < turn)
        wait_s = max((limit.wait_s(ahead_bytes, now_s) for limit in limits), default=0.0)
        if wait_s >= _WAIT_S_MIN:
            return wait_s
        self.on_sent(self._turns.pop(turn), uplink_bytes_per_s, now_s)
        return 0.0

    def on_left(self, turn: int) -> None:
        """Whoever had this turn does not wait any more; those behind move up."""
        self._turns.pop(turn, None)

    def on_sent(self, size_bytes: int, uplink_bytes_per_s: float | None, now_s: float) -> None:
        """So much went without a turn, being small; chunks wait the longer."""
        for limit in self._limits(uplink_bytes_per_s, now_s):
            limit.pace.take(size_bytes, now_s)

    def _limits(self, uplink_bytes_per_s: float | None, now_s: float) -> list[_Limit]:
        rate = (uplink_bytes_per_s or 0.0) * (self._share or 0.0)
        if not rate:
            # What an idle uplink was sent is no debt when it is needed again.
            self._shared = None
        elif self._shared is None or self._shared.bytes_per_s != rate:
            self._shared = _Limit(rate, now_s)
        return [limit for limit in (self._own, self._shared) if limit is not None]
