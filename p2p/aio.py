"""asyncio programs: trio runs as a guest inside their loop, and its functions can be awaited.

    async with open_guest() as guest:
        node = await guest.enter(open_node())
        peer_id = await guest.call(node.connect_address, address)

One thread, two loops that take turns (trio's guest mode). A crossing costs turns of both, about
a tenth of a millisecond, so let bulk flow inside one call rather than in many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import outcome
import trio

from p2p.errors import PortalClosed
from p2p.held import Held
from p2p.nursery import open_service_nursery

T = TypeVar("T")


class Guest:
    """Runs trio functions for asyncio tasks of the loop in which it was opened."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._crash: BaseException | None = None
        self._calls: dict[asyncio.Future[Any], None] = {}
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._held: Held

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a trio function to its end; a cancellation here cancels it there and waits for it.

        Raises:
            PortalClosed: the block has been left.
            whatever the function raises.
        """
        future: asyncio.Future[outcome.Outcome[T]] = self._loop.create_future()
        scope = trio.CancelScope()
        if self._over.done():
            raise PortalClosed("the guest has gone; open it again to go on")
        self._calls[future] = None
        try:
            self._token.run_sync_soon(self._start, future, scope, function, args)
            while not future.done():
                try:
                    await asyncio.shield(future)
                except asyncio.CancelledError:
                    # Whoever cancels us may be sure that afterwards nothing of it runs any more.
                    self._token.run_sync_soon(scope.cancel)
                    await _settled(future)
                    raise
        finally:
            del self._calls[future]
            if future.done():
                future.exception()  # nobody may be left to ask for it
        return future.result().unwrap()

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter an async context manager of trio; it is left with the guest's block, newest first.

        Raises:
            whatever entering raises.
        """
        value: T = await self.call(self._held.enter, context)
        return value

    def _start(
        self,
        future: asyncio.Future[outcome.Outcome[T]],
        scope: trio.CancelScope,
        function: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
    ) -> None:
        self._nursery.start_soon(self._serve, future, scope, function, args)

    async def _serve(
        self,
        future: asyncio.Future[outcome.Outcome[T]],
        scope: trio.CancelScope,
        function: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
    ) -> None:
        result: outcome.Outcome[T] = outcome.Error(PortalClosed("the call was cancelled"))
        with scope:
            try:
                result = outcome.Value(await function(*args))
            except Exception as exc:  # it belongs to the caller, whatever it is
                result = outcome.Error(exc)
        # When all of trio is cancelled we do not come here: the caller then hears why it ended.
        future.set_result(result)

    async def _home(self) -> None:
        """What trio runs, from the beginning to the end of the block."""
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with open_service_nursery() as self._nursery:
                self._held = Held(self._nursery)
                if not self._ready.done():
                    self._ready.set_result(None)
                await trio.sleep_forever()

    def _on_done(self, result: outcome.Outcome[None]) -> None:
        if isinstance(result, outcome.Error):
            self._crash = result.error
        gone = self._crash or PortalClosed("the guest has gone")
        for future in (*self._calls, self._ready):
            if not future.done():
                future.set_exception(gone)
        self._over.set_result(None)

    def _soon(self, function: Callable[[], object]) -> None:
        self._loop.call_soon(function)

    def _soon_from_any_thread(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def _begin(self) -> None:
        trio.lowlevel.start_guest_run(
            self._home,
            run_sync_soon_threadsafe=self._soon_from_any_thread,
            run_sync_soon_not_threadsafe=self._soon,
            done_callback=self._on_done,
            host_uses_signal_set_wakeup_fd=True,
            restrict_keyboard_interrupt_to_checkpoints=True,
        )

    async def _end(self) -> None:
        if not self._over.done():
            self._token.run_sync_soon(self._nursery.start_soon, self._leave)
        await _settled(self._over)

    async def _leave(self) -> None:
        await self._held.leave_all()
        self._scope.cancel()


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait until it is done, whoever cancels us meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


@asynccontextmanager
async def open_guest() -> AsyncIterator[Guest]:
    """Run trio inside the running asyncio loop while the block lasts.

    Leaving it leaves what was entered, newest first; then nothing of trio is left in the loop.

    Raises:
        RuntimeError: no asyncio loop is running.
        what ended trio before the block did, if something did.
    """
    guest = Guest(asyncio.get_running_loop())
    guest._begin()
    try:
        await guest._ready
        yield guest
    finally:
        await guest._end()
    if guest._crash is not None:
        raise guest._crash
