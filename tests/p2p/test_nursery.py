"""open_service_nursery: its tasks end with its block, its errors come out bare."""

import pytest
import trio
from trio.testing import MockClock

from p2p import open_service_nursery


async def test_leaving_the_block_cancels_the_tasks(
    autojump_clock: MockClock,
) -> None:
    ended = trio.Event()

    async def serve() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_service_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.sleep(1)
    assert ended.is_set()


async def fail(error: Exception) -> None:
    raise error


async def test_an_error_of_the_block_comes_out_bare_with_its_cause() -> None:
    cause = ValueError("cause")
    with pytest.raises(KeyError) as caught:
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("x") from cause
    assert caught.value.__cause__ is cause


async def test_an_error_of_a_task_ends_the_block_and_comes_out_bare() -> None:
    with pytest.raises(KeyError):
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail, KeyError("x"))
            await trio.sleep_forever()


async def test_nested_nurseries_do_not_wrap_an_error() -> None:
    with pytest.raises(KeyError):
        async with open_service_nursery(), open_service_nursery(), open_service_nursery() as inner:
            inner.start_soon(fail, KeyError("x"))
            await trio.sleep_forever()


async def test_several_errors_come_out_as_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail, KeyError("x"))
            nursery.start_soon(fail, ValueError("y"))
            await trio.sleep_forever()
    assert {type(exc) for exc in caught.value.exceptions} == {KeyError, ValueError}


async def test_cancelling_from_outside_is_no_error() -> None:
    with trio.CancelScope() as scope:
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_error_beside_a_cancellation_comes_out_bare() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("x")

    with pytest.raises(KeyError), trio.CancelScope() as scope:
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.sleep_forever()


async def test_an_error_beside_a_cancellation_does_not_hide_it() -> None:
    reached = False

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("x")

    with trio.CancelScope() as scope:
        try:
            async with open_service_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                await trio.lowlevel.checkpoint()
                scope.cancel()
                await trio.sleep_forever()
        except KeyError:
            await trio.lowlevel.checkpoint()
            reached = True
    assert not reached
    assert scope.cancelled_caught
