"""Portal: synchronous code, in whatever thread, calls what runs on a trio of its own.

    the caller's thread                trio's thread
    call(async_fn) ── start ────────▶  one task with one cancel scope
       waits in slices of 0.2 s  ◀──── result, or error
       runs a job if asked       ◀──── CallerJobs.run(function): "read this for me"
       Ctrl-C, timeout: cancel ────▶   waits at most 2 s for the task to end, then raises
    close() ─────────────────────▶     leaves what was entered, newest first; the thread ends

Trio's thread is no daemon, so that farewells are spoken; therefore it watches the thread that
opened it and the main thread, and ends by itself when one of them is gone without closing it.

    with Portal() as portal:
        node = portal.enter(open_node())
        portal.call(node.connect_address, address)
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

import outcome
import trio

from p2p.errors import PortalClosed
from p2p.fork import keep_sockets_from_children
from p2p.held import Held
from p2p.nursery import open_service_nursery

T = TypeVar("T")

logger = logging.getLogger(__name__)

# A lock's wait hides Ctrl-C where signals cannot interrupt it (Windows), so waits are sliced.
_WAIT_SLICE_S = 0.2
# What a cancelled call gets to say its farewell, before its caller goes on without it.
_CANCEL_S = 2.0
# Leaving all services: each speaks its farewell within 2 s, and there are a handful of them.
_CLOSE_S = 10.0
_WATCH_S = 0.25


class Portal:
    """Runs trio in a thread of its own and carries calls there; leaving the block ends it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._owners = (threading.current_thread(), threading.main_thread())
        self._ready = threading.Event()
        self._crash: BaseException | None = None
        self._crash_told = False
        self._thread = threading.Thread(target=self._run, name="manyhands-trio", daemon=False)
        self._thread.start()
        self._ready.wait()
        if self._crash is not None:
            raise self._crash
        keep_sockets_from_children(self)

    def __enter__(self) -> Portal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if self._crash is not None and not self._crash_told and error is None:
            self._crash_told = True
            raise self._crash

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._thread.is_alive() and os.getpid() == self._pid

    def call(
        self,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        jobs: CallerJobs | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """Run an async function on trio's thread and wait for it, answering jobs meanwhile.

        Args:
            timeout_s: the call is cancelled when it takes longer; None waits for ever.

        Raises:
            PortalClosed: trio's thread ended, or this is a forked child.
            TimeoutError: the call took too long, and was cancelled.
            whatever the function raises; KeyboardInterrupt and errors of jobs' callers cancel it.
        """
        if not self.is_open:
            raise self._closed_error()
        self._check_thread()
        call = _Call(lambda: function(*args))
        if jobs is not None:
            jobs.attach(call.inbox)
        try:
            self._soon(self._start, call)
            in_time = self._wait(call, timeout_s)
            if not in_time:
                self._abandon(call)
        except BaseException:
            self._abandon(call)
            raise
        finally:
            if jobs is not None:
                jobs.detach(call.inbox)
        if call.result is None:
            raise self._closed_error() if in_time else TimeoutError(f"longer than {timeout_s:g} s")
        result: T = call.result.unwrap()
        return result

    def enter(
        self, context: AbstractAsyncContextManager[T], *, timeout_s: float | None = None
    ) -> T:
        """Enter an async context manager on trio's thread; close() leaves it, newest first."""
        value: T = self.call(self._held.enter, context, timeout_s=timeout_s)
        return value

    def close(self) -> None:
        """Leave everything that was entered and end trio's thread; harmless when done already."""
        if self._pid != os.getpid():
            return
        self._check_thread()
        try:
            self._soon(self._begin_closing)
            self._join(_CLOSE_S)
        finally:
            if self._thread.is_alive():
                self._soon(self._scope.cancel)
                self._join(_CANCEL_S)
        if self._thread.is_alive():
            logger.error("portal_close_slow seconds=%g", _CLOSE_S + _CANCEL_S)

    # --- the caller's side ---

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise ValueError("trio's own thread must not wait for itself: await the function there")

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            logger.debug("portal_run_finished")

    def _wait(self, call: _Call[Any], timeout_s: float | None) -> bool:
        """Do jobs until the call has ended; False when the time was over first."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                job = call.inbox.get(timeout=min(left, _WAIT_SLICE_S))
            except queue.Empty:
                if not self._thread.is_alive():
                    return True
                continue
            if job is None:
                return True
            job.run()
        return call.done.is_set()

    def _abandon(self, call: _Call[Any]) -> None:
        """Cancel and wait a little: after this nothing more is done for the call's caller."""
        self._soon(call.scope.cancel)
        deadline = time.monotonic() + _CANCEL_S
        while (left := deadline - time.monotonic()) > 0 and self._thread.is_alive():
            if call.done.wait(min(left, _WAIT_SLICE_S)):
                return
        logger.warning("portal_cancel_slow seconds=%g", _CANCEL_S)

    def _join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._thread.join(min(left, _WAIT_SLICE_S))

    def _closed_error(self) -> BaseException:
        if os.getpid() != self._pid:
            return PortalClosed(
                "a forked process cannot use its parent's network; open it there anew"
            )
        self._join(_CANCEL_S)
        if self._crash is not None and not self._crash_told:
            self._crash_told = True
            return self._crash
        return PortalClosed("the network's thread has ended; open or join again to go on")

    # --- trio's side ---

    def _run(self) -> None:
        try:
            trio.run(self._home)
        except BaseException as exc:
            self._crash = exc
            logger.error("portal_crashed cause=%r", exc)
        finally:
            self._ready.set()

    async def _home(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            async with open_service_nursery() as self._nursery:
                self._held = Held(self._nursery)
                self._nursery.start_soon(self._watch_owners)
                self._ready.set()
                await trio.sleep_forever()

    async def _watch_owners(self) -> None:
        # A thread's end sets no event, so it is looked at.
        while all(owner.is_alive() for owner in self._owners):  # noqa: ASYNC110
            await trio.sleep(_WATCH_S)
        logger.info("portal_owner_gone")
        await self._leave_all()

    def _start(self, call: _Call[Any]) -> None:
        if not self._spawn(self._serve, call):
            call.end()

    def _spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> bool:
        try:
            self._nursery.start_soon(function, *args)
        except RuntimeError:  # the nursery has ended, the run is about to
            return False
        return True

    async def _serve(self, call: _Call[T]) -> None:
        try:
            with call.scope:
                call.result = outcome.Value(await call.function())
        except Exception as exc:
            # It belongs to the caller, whatever it is; a cancellation beside it, the scope took.
            call.result = outcome.Error(exc)
        finally:
            call.end()

    def _begin_closing(self) -> None:
        self._spawn(self._leave_all)

    async def _leave_all(self) -> None:
        await self._held.leave_all()
        self._scope.cancel()


class CallerJobs:
    """Work that trio's side hands to the caller's thread, done in its present or next call.

    Only the thread that computes may read or write the model; this is how a snapshot is had.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[_Job | None] | None = None
        self._waiting: deque[_Job] = deque()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Have the caller's thread run a function, and wait for its result (trio's side)."""
        job = _Job(lambda: function(*args))
        with self._lock:
            if self._inbox is not None:
                self._inbox.put(job)
            else:
                self._waiting.append(job)
        try:
            await job.done.wait()
        except trio.Cancelled:
            job.abandoned = True
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
            raise
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    def attach(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        """A call begins: what waited comes first."""
        with self._lock:
            self._inbox = inbox
            while self._waiting:
                inbox.put(self._waiting.popleft())

    def detach(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        """The call ended: what it did not do waits for the next one."""
        with self._lock:
            self._inbox = None
            while not inbox.empty():
                job = inbox.get_nowait()
                if job is not None and not job.abandoned:
                    self._waiting.append(job)


class _Call(Generic[T]):
    """One crossing: what to run, the scope that cancels it, and where its end is told."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.function = function
        self.scope = trio.CancelScope()
        self.result: outcome.Outcome[T] | None = None
        self.done = threading.Event()
        self.inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()

    def end(self) -> None:
        """Tell the caller that nothing more happens."""
        self.done.set()
        self.inbox.put(None)


class _Job:
    """One function for the caller's thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: outcome.Outcome[Any] | None = None
        self.done = trio.Event()
        self.abandoned = False
        self._token = trio.lowlevel.current_trio_token()

    def run(self) -> None:
        """Run on this thread; an error goes to who asked, Ctrl-C to the caller as well."""
        if self.abandoned:
            return
        try:
            self.result = outcome.Value(self.function())
        except BaseException as exc:
            self.result = outcome.Error(exc)
            if not isinstance(exc, Exception):
                self.result = outcome.Error(PortalClosed("the caller was interrupted"))
                raise
        finally:
            self._token.run_sync_soon(self.done.set)
