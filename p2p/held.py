"""Held: async context managers that are entered for callers elsewhere, and left newest first."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class Held:
    """What has been entered in a nursery; all methods are for trio's side."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._entered: list[tuple[trio.Event, trio.Event]] = []

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter it in a task of its own, which holds it until leave_all()."""
        value: T = await self._nursery.start(self._hold, context)
        return value

    async def _hold(
        self,
        context: AbstractAsyncContextManager[T],
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        leave, left = trio.Event(), trio.Event()
        try:
            async with context as value:
                self._entered.append((leave, left))
                task_status.started(value)
                await leave.wait()
        finally:
            left.set()

    async def leave_all(self) -> None:
        """Leave everything, the newest first."""
        while self._entered:
            leave, left = self._entered.pop()
            leave.set()
            await left.wait()
