"""asyncio programs: trio runs as a guest inside their loop, and its functions can be awaited.

    async with open_guest() as guest:
        node = await guest.enter(open_node())
        peer_id = await guest.call(node.connect_address, address)

One thread, two loops that take turns (trio's guest mode). A crossing costs turns of both: about
0.1 ms when trio is busy and 0.4 ms when it slept, so let bulk cross in pieces of 256 KiB or more,
or flow inside one call. A loop hosts one trio run, which all its guests share. The threads of
trio's pool, which wait for its sockets, end some seconds after the last guest by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import outcome
import trio

from p2p.errors import PortalClosed
from p2p.fork import keep_sockets_from_children
from p2p.held import Held
from p2p.nursery import open_service_nursery

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Leaving all services: each speaks its farewell within 2 s, and there are a handful of them.
_CLOSE_S = 10.0
# What cancelled tasks get to say their farewell, before the loop goes on without them.
_CANCEL_S = 2.0


class Guest:
    """Runs trio functions for asyncio tasks of the loop in which it was opened."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._crash: BaseException | None = None
        self._crash_told = False
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._held: Held
        keep_sockets_from_children(self)

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a trio function to its end; a cancellation here cancels it there and waits for it.

        Raises:
            PortalClosed: the block has been left, before or meanwhile.
            whatever the function raises, also while it is being cancelled.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ValueError("a guest serves the loop in which it was opened, and no other")
        if self._over.done():
            raise self._closed_error()
        call = _Call(lambda: function(*args), self._loop.create_future())
        try:
            self._nursery.start_soon(_serve, call)
        except RuntimeError:  # the nursery has ended, the block is being left
            raise self._closed_error() from None
        try:
            await asyncio.shield(call.over)
        except asyncio.CancelledError:
            # Whoever cancels us may be sure that afterwards nothing of it runs any more.
            call.scope.cancel()
            await _settled(call.over)
            if isinstance(call.result, outcome.Error):
                call.result.unwrap()
            raise
        if call.result is None:
            cancelled = await _settled(self._over)
            raise cancelled or self._closed_error()
        return call.result.unwrap()

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter an async context manager of trio; it is left with the guest's block, newest first.

        Raises:
            whatever entering raises.
        """
        value: T = await self.call(self._held.enter, context)
        return value

    async def _end(self) -> None:
        """Leave everything within a bounded time, even when cancelled; then be cancelled."""
        if self._over.done():
            return
        self._nursery.start_soon(self._leave)
        cancelled = await _settled(self._over, timeout_s=_CLOSE_S)
        if not self._over.done():
            self._scope.cancel()
            cancelled = await _settled(self._over, timeout_s=_CANCEL_S) or cancelled
        if not self._over.done():
            logger.error("guest_close_slow seconds=%g", _CLOSE_S + _CANCEL_S)
        if cancelled is not None:
            raise cancelled

    def _closed_error(self) -> BaseException:
        if self._crash is not None and not self._crash_told:
            self._crash_told = True
            return self._crash
        return PortalClosed("the guest has gone; open it again to go on")

    # --- trio's side ---

    async def _home(self) -> None:
        """All of this guest, as a system task, which must raise nothing but a cancellation."""
        try:
            with self._scope:
                async with open_service_nursery() as self._nursery:
                    self._held = Held(self._nursery)
                    _settle(self._ready)
                    await trio.sleep_forever()
        except trio.Cancelled:
            raise
        except BaseException as exc:
            # The end of trio's run cancels us: what comes beside that is told, that is not.
            self._crash = exc
            if isinstance(exc, BaseExceptionGroup):
                self._crash = exc.split(trio.Cancelled)[1]
            logger.error("guest_crashed cause=%r", self._crash)
        finally:
            _settle(self._ready)
            _settle(self._over)

    async def _leave(self) -> None:
        await self._held.leave_all()
        self._scope.cancel()


class _Call(Generic[T]):
    """One crossing; no result at its end means that it was cancelled, with or without the guest."""

    def __init__(self, function: Callable[[], Awaitable[T]], over: asyncio.Future[None]) -> None:
        self.function = function
        self.over = over
        self.scope = trio.CancelScope()
        self.result: outcome.Outcome[T] | None = None


async def _serve(call: _Call[Any]) -> None:
    try:
        with call.scope:
            call.result = outcome.Value(await call.function())
    except Exception as exc:
        # It belongs to the caller, whatever it is; a cancellation beside it, the scope took.
        call.result = outcome.Error(exc)
    finally:
        _settle(call.over)


class _TrioRun:
    """The trio run of one loop, which lasts as long as there are guests in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.guests: set[Guest] = set()
        self.over: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._deserted = trio.Event()
        trio.lowlevel.start_guest_run(
            self._deserted.wait,
            run_sync_soon_threadsafe=self._soon_from_any_thread,
            run_sync_soon_not_threadsafe=self._soon,
            done_callback=self._on_done,
            host_uses_signal_set_wakeup_fd=True,
            # asyncio.run handles Ctrl-C itself. Where nobody does, it must reach asyncio's code
            # at once; were it kept for trio's checkpoints, asyncio's tasks would go on unaware.
            restrict_keyboard_interrupt_to_checkpoints=False,
        )

    async def leave(self, guest: Guest) -> None:
        """One guest less; the last one ends the run."""
        self.guests.discard(guest)
        if not self.guests and not self.over.done():
            self._deserted.set()
            cancelled = await _settled(self.over, timeout_s=_CANCEL_S)
            if cancelled is not None:
                raise cancelled

    def _soon(self, function: Callable[[], object]) -> None:
        self._loop.call_soon(function)

    def _soon_from_any_thread(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            # The loop was closed under us; trio warns of that when its run is collected.
            logger.warning("guest_loop_closed")

    def _on_done(self, result: outcome.Outcome[None]) -> None:
        del _runs[self._loop]
        _settle(self.over)
        for guest in self.guests:
            _settle(guest._over)
        # Ctrl-C while trio was at work: asyncio's loop ends as if it had been hit itself.
        result.unwrap()


_runs: WeakKeyDictionary[asyncio.AbstractEventLoop, _TrioRun] = WeakKeyDictionary()


@asynccontextmanager
async def open_guest() -> AsyncIterator[Guest]:
    """Run trio inside the running asyncio loop while the block lasts.

    Leaving it leaves what was entered, newest first; then nothing of it is left in the loop.

    Raises:
        RuntimeError: no asyncio loop is running.
        what ended the guest before the block did, if something did and no call has told it.
    """
    loop = asyncio.get_running_loop()
    while (run := _runs.get(loop)) is not None and not run.guests:
        await asyncio.shield(run.over)
    if run is None:
        run = _runs[loop] = _TrioRun(loop)
    guest = Guest(loop)
    run.guests.add(guest)
    try:
        trio.lowlevel.spawn_system_task(guest._home)
        cancelled = await _settled(guest._ready)
        try:
            if cancelled is not None:
                raise cancelled
            yield guest
        finally:
            await guest._end()
    finally:
        await run.leave(guest)
    if guest._crash is not None and not guest._crash_told:
        guest._crash_told = True
        raise guest._crash


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _settled(
    future: asyncio.Future[None], *, timeout_s: float | None = None
) -> asyncio.CancelledError | None:
    """Wait until it is done or the time is over, whoever cancels us; returns the cancellation."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    cancelled = None
    while not future.done():
        left_s = None if deadline is None else deadline - loop.time()
        if left_s is not None and left_s <= 0:
            break
        try:
            await asyncio.wait((future,), timeout=left_s)
        except asyncio.CancelledError as exc:
            cancelled = exc
    return cancelled
