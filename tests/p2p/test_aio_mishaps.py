"""A guest when things go wrong: cancellations at bad moments, errors beside them, Ctrl-C, forks."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p import open_guest

ROOT = Path(__file__).parent.parent.parent
FAREWELL_S = 0.02


@asynccontextmanager
async def thing(
    log: list[str], on_leaving: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """A service that takes a moment to say farewell."""
    try:
        yield
    finally:
        if on_leaving is not None:
            on_leaving()
        with trio.CancelScope(shield=True):
            await trio.sleep(FAREWELL_S)
        log.append("left")


async def add(left: int, right: int) -> int:
    await trio.lowlevel.checkpoint()
    return left + right


# Cancellations and errors


def test_an_error_beside_a_cancellation_is_told_and_harms_no_other_call() -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def clumsy() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                begun.set()
                try:
                    await trio.sleep_forever()
                finally:
                    raise LookupError("while being cancelled")

        async with open_guest() as guest:
            task = asyncio.create_task(guest.call(clumsy))
            await begun.wait()
            task.cancel()
            with pytest.raises(ExceptionGroup) as caught:
                await task
            assert caught.group_contains(LookupError, match="while being cancelled")
            assert await guest.call(add, 1, 1) == 2

    asyncio.run(main())


def test_a_cancellation_while_opening() -> None:
    async def visit() -> None:
        async with open_guest():
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(visit())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with open_guest() as guest:
            assert await guest.call(add, 1, 1) == 2

    asyncio.run(main())


def test_a_cancellation_while_leaving_is_kept_and_all_is_left() -> None:
    log: list[str] = []

    async def main() -> None:
        leaving = asyncio.Event()

        async def visit() -> None:
            async with open_guest() as guest:
                await guest.enter(thing(log, leaving.set))
            log.append("went on")

        task = asyncio.create_task(visit())
        await leaving.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log == ["left"]


def test_leaving_takes_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("p2p.aio._CLOSE_S", 0.01)
    monkeypatch.setattr("p2p.aio._CANCEL_S", 0.01)

    async def main() -> None:
        release = trio.Event()

        @asynccontextmanager
        async def stuck() -> AsyncIterator[None]:
            yield
            with trio.CancelScope(shield=True):
                await release.wait()

        # Another guest keeps trio's run alive, so that what is stuck can be ended below.
        async with open_guest() as other:
            async with open_guest() as guest:
                await guest.enter(stuck())
            assert "guest_close_slow" in caplog.text
            release.set()
            assert await other.call(add, 1, 1) == 2

    asyncio.run(main())


def test_a_guest_left_behind_is_closed_by_the_end_of_asyncio() -> None:
    log: list[str] = []
    stack = AsyncExitStack()

    async def main() -> None:
        guest = await stack.enter_async_context(open_guest())
        await guest.enter(thing(log))

    asyncio.run(main())
    assert log == ["left"]
    stack.pop_all()


# Several guests


def test_guests_share_a_loop_and_the_crash_of_one_harms_no_other() -> None:
    @asynccontextmanager
    async def doomed() -> AsyncIterator[Callable[[], None]]:
        async with trio.open_nursery() as nursery:
            trigger = trio.Event()

            async def die() -> None:
                await trigger.wait()
                raise OSError("the network is gone")

            nursery.start_soon(die)
            yield trigger.set

    async def main() -> None:
        async with open_guest() as other:
            with pytest.raises(OSError, match="the network is gone"):
                async with open_guest() as guest:
                    (await guest.enter(doomed()))()
            assert await other.call(add, 1, 1) == 2

    asyncio.run(main())


# Ctrl-C and fork


async def interrupt() -> None:
    """Ctrl-C while a task of trio's runs."""
    signal.raise_signal(signal.SIGINT)
    await trio.sleep_forever()


@trio.lowlevel.enable_ki_protection
async def interrupt_protected() -> None:
    """Ctrl-C while code runs that trio does not interrupt, such as its own."""
    signal.raise_signal(signal.SIGINT)
    await trio.sleep_forever()


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("function", [interrupt, interrupt_protected, None])
@pytest.mark.parametrize("handled", [True, False], ids=["asyncio.run", "run_until_complete"])
def test_ctrl_c_ends_both_loops(
    function: Callable[[], Awaitable[None]] | None, handled: bool
) -> None:
    log: list[str] = []

    async def main() -> None:
        async with open_guest() as guest:
            await guest.enter(thing(log))
            if function is not None:
                await guest.call(function)
            # Ctrl-C while nobody waits for trio, as in a server that waits for requests.
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await asyncio.sleep(5)
            log.append("slept on")

    handler = signal.getsignal(signal.SIGINT)
    if handled:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    else:
        loop = asyncio.new_event_loop()
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:  # none, where Ctrl-C came out of the task itself
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert log == ["left"]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_closes_our_sockets() -> None:
    program = (
        "import asyncio, os, psutil\n"
        "from p2p import open_guest, open_node\n"
        "sockets = lambda: len(psutil.Process().net_connections('tcp'))\n"
        "async def main():\n"
        "    async with open_guest() as guest:\n"
        "        await guest.enter(open_node())\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            os._exit(sockets())\n"
        "        assert sockets() == 1\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "asyncio.run(main())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert result.stdout.strip() == "0", result.stderr
