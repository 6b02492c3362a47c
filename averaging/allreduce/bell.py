"""Bell: wakes every task that waits for something to have changed."""

from __future__ import annotations

import trio


class Bell:
    """A task checks, waits, and checks again; nothing is missed, since only one runs at a time."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        self._rung.set()
        self._rung = trio.Event()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._rung.wait()
