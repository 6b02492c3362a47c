"""Wall time taken from trio's clock, so that a test which jumps the one jumps the other."""

from __future__ import annotations

import time

import trio

_wall_at_zero: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("_wall_at_zero")


def wall_time_s() -> float:
    """Seconds since 1970, moved by the running trio clock, so it never steps back within a run."""
    try:
        at_zero = _wall_at_zero.get()
    except LookupError:
        at_zero = time.time() - trio.current_time()
        _wall_at_zero.set(at_zero)
    return at_zero + trio.current_time()


def set_wall_time(now_s: float) -> None:
    """Fix what wall_time_s() says in this trio run: a simulation starts at a known date."""
    _wall_at_zero.set(now_s - trio.current_time())
