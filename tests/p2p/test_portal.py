"""The portal: calls, jobs, interruption, and leaving nothing behind."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p import CallerJobs, Portal, PortalClosed

ROOT = Path(__file__).parent.parent.parent
# Nothing below waits for this long unless it is broken.
SOON_S = 10.0


async def add(left: int, right: int) -> int:
    await trio.lowlevel.checkpoint()
    return left + right


def trio_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "manyhands-trio"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Spin in real time: threads have no clock that a test could jump."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_a_call_returns_the_result() -> None:
    with Portal() as portal:
        assert portal.call(add, 2, 3) == 5
        assert portal.is_open
    assert not portal.is_open
    assert trio_threads() == []


def test_a_call_raises_the_error_of_the_function() -> None:
    async def fail() -> None:
        raise LookupError("nothing here")

    with Portal() as portal:
        with pytest.raises(LookupError, match="nothing here"):
            portal.call(fail)
        assert portal.call(add, 1, 1) == 2, "an error of one call harms no other"


def test_calls_run_on_one_thread_that_is_not_ours() -> None:
    async def thread_name() -> str:
        return threading.current_thread().name

    with Portal() as portal:
        assert portal.call(thread_name) == "manyhands-trio"


def test_what_was_entered_is_left_newest_first() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def thing(name: str) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            log.append(f"{name} opened")
            yield name
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)
        log.append(f"{name} left")

    with Portal() as portal:
        assert portal.enter(thing("first")) == "first"
        assert portal.enter(thing("second")) == "second"
    assert log == ["first opened", "second opened", "second left", "first left"]


def test_an_error_at_entering_reaches_the_caller_bare() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        async with trio.open_nursery():
            raise_it = ValueError("no such port")
            raise raise_it
        yield

    with Portal() as portal:
        with pytest.raises(ExceptionGroup) as caught:
            portal.enter(broken())
        assert caught.group_contains(ValueError, match="no such port")
        assert portal.call(add, 1, 1) == 2


def test_a_service_that_dies_is_told_once() -> None:
    @asynccontextmanager
    async def doomed() -> AsyncIterator[Callable[[], None]]:
        async with trio.open_nursery() as nursery:
            trigger = trio.Event()

            async def die() -> None:
                await trigger.wait()
                raise OSError("the network is gone")

            nursery.start_soon(die)
            yield trigger.set

    portal = Portal()
    trigger = portal.enter(doomed())

    async def pull() -> None:
        trigger()
        await trio.sleep_forever()

    with pytest.raises(OSError, match="the network is gone"):
        portal.call(pull)
    with pytest.raises(PortalClosed):
        portal.call(add, 1, 1)
    portal.close()
    assert trio_threads() == []


def test_jobs_run_on_the_callers_thread_while_it_waits() -> None:
    jobs = CallerJobs()

    async def ask() -> str:
        return await jobs.run(lambda: threading.current_thread().name)

    with Portal() as portal:
        assert portal.call(ask, jobs=jobs) == threading.current_thread().name


def test_jobs_wait_for_the_next_call() -> None:
    jobs = CallerJobs()
    answers: list[int] = []

    @asynccontextmanager
    async def asker() -> AsyncIterator[None]:
        async def ask() -> None:
            answers.append(await jobs.run(lambda: 42))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            yield

    async def settle() -> None:
        while not answers:  # noqa: ASYNC110
            await trio.sleep(0.001)

    with Portal() as portal:
        portal.enter(asker())
        portal.call(add, 1, 1)
        assert answers == [], "a call without jobs runs none"
        portal.call(settle, jobs=jobs)
    assert answers == [42]


def test_an_error_of_a_job_goes_to_who_asked() -> None:
    jobs = CallerJobs()

    async def ask() -> str:
        try:
            await jobs.run(lambda: 1 // 0)
        except ZeroDivisionError:
            return "told"
        return "not told"

    with Portal() as portal:
        assert portal.call(ask, jobs=jobs) == "told"


def test_a_job_given_up_is_not_run() -> None:
    jobs = CallerJobs()
    ran: list[int] = []

    async def ask_briefly() -> None:
        with trio.move_on_after(0.01):
            await jobs.run(lambda: ran.append(1))

    with Portal() as portal:
        portal.call(ask_briefly)
        portal.call(add, 1, 1, jobs=jobs)
    assert ran == []


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupting_a_call_cancels_it() -> None:
    started, events = threading.Event(), list[str]()

    async def long() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            events.append("cancelled")

    def interrupt() -> None:
        started.wait(SOON_S)
        os.kill(os.getpid(), signal.SIGINT)

    with Portal() as portal:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            portal.call(long)
        assert events == ["cancelled"], "the call's task ended before the error was raised"
        thread.join()
        assert portal.call(add, 1, 1) == 2
    assert trio_threads() == []


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    events: list[str] = []

    async def long() -> None:
        try:
            await trio.sleep_forever()
        finally:
            events.append("cancelled")

    with Portal() as portal:
        with pytest.raises(TimeoutError, match=r"0\.01 s"):
            portal.call(long, timeout_s=0.01)
        assert events == ["cancelled"], "the call's task ended before the error was raised"
        assert portal.call(add, 1, 1, timeout_s=SOON_S) == 2


def test_an_error_beside_a_cancellation_harms_no_other_call() -> None:
    async def clumsy() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError

    with Portal() as portal:
        with pytest.raises(ExceptionGroup) as caught:
            portal.call(clumsy, timeout_s=0.01)
        assert caught.group_contains(LookupError)
        assert portal.call(add, 1, 1) == 2


def test_trios_own_thread_must_not_wait_for_itself() -> None:
    with Portal() as portal:

        async def call() -> int:
            return portal.call(add, 1, 1)

        with pytest.raises(ValueError, match="must not wait"):
            portal.call(call)
        assert portal.call(add, 1, 1) == 2


def test_two_threads_may_call_at_once() -> None:
    arrived = [0]

    async def meet() -> int:
        arrived[0] += 1
        while arrived[0] < 2:  # noqa: ASYNC110
            await trio.sleep(0.001)
        return arrived[0]

    results: list[int] = []
    with Portal() as portal:
        other = threading.Thread(target=lambda: results.append(portal.call(meet)))
        other.start()
        results.append(portal.call(meet))
        other.join()
    assert results == [2, 2]


def test_closing_cancels_a_call_of_another_thread() -> None:
    started, errors = threading.Event(), list[BaseException]()

    async def long() -> None:
        started.set()
        await trio.sleep_forever()

    portal = Portal()

    def caller() -> None:
        try:
            portal.call(long)
        except PortalClosed as exc:
            errors.append(exc)

    thread = threading.Thread(target=caller)
    thread.start()
    assert started.wait(SOON_S)
    portal.close()
    thread.join(SOON_S)
    assert len(errors) == 1
    portal.close()


def test_the_thread_ends_when_its_opener_is_gone() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def thing() -> AsyncIterator[None]:
        yield
        left.append("left")

    def open_and_forget() -> None:
        Portal().enter(thing())

    opener = threading.Thread(target=open_and_forget)
    opener.start()
    opener.join()
    wait_until(lambda: trio_threads() == [])
    assert left == ["left"]


def is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, timeout=30
    )


@pytest.mark.slow
def test_sys_exit_without_leaving_ends_the_process_with_farewells() -> None:
    result = run_script(
        "import sys\n"
        "from contextlib import asynccontextmanager\n"
        "from p2p.portal import Portal\n"
        "@asynccontextmanager\n"
        "async def thing():\n"
        "    yield\n"
        "    print('farewell')\n"
        "portal = Portal()\n"
        "portal.enter(thing())\n"
        "sys.exit(3)\n"
    )
    assert (result.returncode, result.stdout.strip()) == (3, "farewell"), result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_closes_our_sockets_and_cannot_call() -> None:
    result = run_script(
        "import os\n"
        "from contextlib import asynccontextmanager\n"
        "import trio\n"
        "from p2p.portal import Portal\n"
        "from p2p import PortalClosed\n"
        "@asynccontextmanager\n"
        "async def listening():\n"
        "    listeners = await trio.open_tcp_listeners(0, host='127.0.0.1')\n"
        "    yield listeners[0].socket\n"
        "    await listeners[0].aclose()\n"
        "with Portal() as portal:\n"
        "    sock = portal.enter(listening())\n"
        "    number = sock.fileno()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            os.fstat(number)\n"
        "            os._exit(1)\n"
        "        except OSError:\n"
        "            pass\n"
        "        try:\n"
        "            portal.call(trio.sleep, 0)\n"
        "        except PortalClosed:\n"
        "            os._exit(0)\n"
        "        os._exit(2)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    os.fstat(number)\n"
        "    print(code)\n"
    )
    assert result.stdout.strip() == "0", result.stderr


def test_nothing_of_a_portal_stays() -> None:
    def sockets() -> int:
        return sum(map(is_socket, range(256)))

    before = sockets()
    with Portal() as portal:
        portal.call(add, 1, 1)
    assert sockets() == before
    assert trio_threads() == []
