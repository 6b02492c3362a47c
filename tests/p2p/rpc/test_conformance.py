"""Calls behave alike over the real and the simulated transport."""

import math
from typing import Any

import pytest
import trio

from p2p import (
    CallTimeout,
    Method,
    RefusedError,
    RemoteError,
    RpcCall,
    RpcService,
    StreamBroken,
    rpc_client,
)
from tests.p2p.rpc.services import DOUBLE, FAIL, NAME, SLEEP, Calls, Number, Text
from tests.p2p.worlds import KINDS, World, open_pair

ECHO = Method("echo", Number, Number, payload_bytes_max=4_000_000)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


async def test_answers_refusals_and_failures(world: World) -> None:
    async with open_pair(world) as (alice, bob), Calls().service.serving(bob):
        client = rpc_client(alice, NAME)
        for number in range(20):
            answer = await client.call(bob.peer_id, DOUBLE, Number(number), timeout_s=5)
            assert answer == Number(2 * number)
        with pytest.raises(RefusedError, match="not-found: no such thing"):
            await client.call(bob.peer_id, FAIL, Text("refuse"), timeout_s=5)
        with pytest.raises(RemoteError, match="internal error"):
            await client.call(bob.peer_id, FAIL, Text("bug"), timeout_s=5)
        with pytest.raises(RefusedError, match="protocol-not-supported"):
            await rpc_client(alice, "other").call(bob.peer_id, DOUBLE, Number(1), timeout_s=5)


async def test_a_timeout_reaches_the_handler(world: World) -> None:
    calls = Calls()
    async with open_pair(world) as (alice, bob), calls.service.serving(bob):
        client = rpc_client(alice, NAME)
        await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=5)
        with pytest.raises(CallTimeout):
            await client.call(bob.peer_id, SLEEP, Number(60), timeout_s=0.1)
        with trio.fail_after(5):
            while not calls.ended:
                await trio.lowlevel.checkpoint()
        assert calls.ended[0][0] == "cancelled"


async def test_payloads_stream_both_ways(world: World) -> None:
    async def echo(call: RpcCall[Any, Any]) -> None:
        while (received := await call.receive()) is not None:
            await call.send(*received)

    service = RpcService(NAME)
    service.stream(ECHO, echo)
    async with open_pair(world) as (alice, bob), service.serving(bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, ECHO, Number(0), timeout_s=5) as call:
            sizes = (0, 1, 16_384, 16_385, 300_000, 4_000_000)

            async def send() -> None:
                for size in sizes:
                    await call.send(Number(size), bytes([size % 251]) * size)
                await call.finish_sending()

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    for size in sizes:
                        received = await call.receive()
                        assert received == (Number(size), bytes([size % 251]) * size)
                    assert await call.receive() is None


async def test_an_error_in_the_block_breaks_the_call_at_the_callee(world: World) -> None:
    broken = trio.Event()

    async def wait(call: RpcCall[Any, Any]) -> None:
        await call.send(Number(1))
        await call.wait_broken()
        broken.set()

    service = RpcService(NAME)
    service.stream(ECHO, wait)
    async with open_pair(world) as (alice, bob), service.serving(bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(KeyError):
            async with client.open(bob.peer_id, ECHO, Number(0), timeout_s=5) as call:
                await call.receive()
                raise KeyError("x")
        with trio.fail_after(5):
            await broken.wait()


async def test_the_end_of_the_serving_block_breaks_its_calls(world: World) -> None:
    async with open_pair(world) as (alice, bob), trio.open_nursery() as nursery:
        client = rpc_client(alice, NAME)
        calls = Calls()
        errors: list[type] = []

        async def call() -> None:
            try:
                await client.call(bob.peer_id, SLEEP, Number(math.pi * 1e6), timeout_s=5)
            except StreamBroken as exc:
                errors.append(type(exc))

        async with calls.service.serving(bob):
            nursery.start_soon(call)
            with trio.fail_after(5):
                while not calls.running:
                    await trio.lowlevel.checkpoint()
        assert calls.running == 0
        with trio.fail_after(5):
            while not errors:
                await trio.lowlevel.checkpoint()
