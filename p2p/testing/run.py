"""run_sim: run a simulated network to its end, the same way each time for the same seed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
import trio._core._run as internals
from trio.testing import MockClock

from p2p.clock import set_wall_time
from p2p.testing.network import SimNetwork

T = TypeVar("T")

WALL_TIME_AT_START_S = 1_735_689_600.0
"""What wall clocks say when a simulation begins: 2025-01-01, midnight UTC."""


def run_sim(
    seed: int,
    main: Callable[[SimNetwork], Awaitable[T]],
    *,
    time_limit_s: float = 86_400.0,
) -> T:
    """Run a simulation to its end; time jumps to the next thing that happens.

    Args:
        seed: decides all chance, the order of trio's tasks included; a failure names it.
        time_limit_s: simulated time after which it fails, so that a deadlock ends too.

    Raises:
        trio.TooSlowError: main did not end within time_limit_s.
        RuntimeError: called from inside a trio program; use SimNetwork there.
    """

    async def entry() -> T:
        set_wall_time(WALL_TIME_AT_START_S)
        with trio.fail_after(time_limit_s):
            return await main(SimNetwork(seed))

    try:
        with _deterministic_scheduling(seed):
            return trio.run(entry, clock=MockClock(autojump_threshold=0))
    except BaseException as exc:
        exc.add_note(f"in the simulation with seed {seed}")
        raise


@contextmanager
def _deterministic_scheduling(seed: int) -> Iterator[None]:
    """Make trio order its tasks by the seed alone; undone when the block ends.

    Trio has these two switches for hypothesis, and no public ones.
    """
    allowed = internals._ALLOW_DETERMINISTIC_SCHEDULING
    state = internals._r.getstate()
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    internals._r.seed(seed)
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        internals._r.setstate(state)
