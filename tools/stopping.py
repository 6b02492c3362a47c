"""How a command is told to stop: Ctrl-C, SIGTERM, and for children the end of their stdin."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import FrameType

import trio

from p2p import open_service_nursery

# A child whose parent is gone must end even if its farewell hangs.
FAREWELL_S_MAX = 15.0
ILL = 1


class Stopped(KeyboardInterrupt):
    """SIGTERM came; a KeyboardInterrupt, so that everything ends as it does at Ctrl-C."""

    def __str__(self) -> str:
        return "SIGTERM"


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM raises Stopped in the main thread, as Ctrl-C raises its own."""

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        # Once is enough: a second one must not interrupt the farewell.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


async def run_until_stopped(function: Callable[..., Awaitable[object]], *args: object) -> bool:
    """Run an async function, cancelled by Ctrl-C or SIGTERM; returns whether it came to its end.

    Further signals change nothing: the farewell is under way, and bounded.
    """
    finished = False
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        trio.CancelScope() as scope,
    ):
        async with open_service_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, scope)
            await function(*args)
            finished = True
    return finished


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def stop_when_stdin_closes() -> threading.Event:
    """Treat the end of stdin as SIGTERM: so children end when their parent dies, however it dies.

    The thread is a daemon because nothing portable can cancel a blocked read of a pipe.

    Returns:
        An event that is set when the parent writes anything.
    """
    told = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                told.set()
        signal.raise_signal(signal.SIGTERM)
        time.sleep(FAREWELL_S_MAX)
        os._exit(ILL)

    threading.Thread(target=watch, name="manyhands-stdin", daemon=True).start()
    return told
