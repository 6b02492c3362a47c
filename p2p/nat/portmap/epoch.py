"""Epoch: whether the router has forgotten its mappings since it last answered (core).

A router counts the seconds since its table was empty. A count that does not go on as time does
means a new table.

Source: RFC 6887 §8.5 (PCP) and RFC 6886 §3.6 (NAT-PMP).
"""

from __future__ import annotations

_SLACK_S = 2


class Epoch:
    """What one router has told of its clock."""

    def __init__(self, *, may_jump_ahead: bool) -> None:
        """Args: may_jump_ahead: a count that goes too fast is no sign (so NAT-PMP, not PCP)."""
        self._may_jump_ahead = may_jump_ahead
        self._last: tuple[float, int] | None = None

    def on_told(self, epoch_s: int, now_s: float) -> bool:
        """Another count: whether the table has been emptied since the last one."""
        last, self._last = self._last, (now_s, epoch_s)
        if last is None:
            return False
        ours_s = now_s - last[0]
        theirs_s = epoch_s - last[1]
        if self._may_jump_ahead:
            return theirs_s + _SLACK_S < ours_s * 7 / 8
        return (
            theirs_s < -1
            or ours_s + _SLACK_S < theirs_s - theirs_s / 16
            or theirs_s + _SLACK_S < ours_s - ours_s / 16
        )
