"""Silence: a member lives as long as any call with it says something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from averaging.allreduce.silence import OpenCalls, wait_silent
from averaging.second_look import LATER_S, SOON_S
from p2p import Identity, Message, Method, Node, RpcCall, RpcService, rpc_client
from p2p.testing import SimNetwork
from tests.simulated import simulated

NAME = "test-silence"
SILENCE_S = 2.5


class Word(Message, frozen=True):
    """Something that is said."""

    talks: bool


CALL: Method[Any, Word] = Method("talk", Word, Word)


async def _talk_for_six_seconds(call: RpcCall[Word, Word]) -> None:
    if call.request.talks:
        for _ in range(6):
            await trio.sleep(1)
            await call.send(Word(True))
    await trio.sleep_forever()


@asynccontextmanager
async def listener_and_talker(network: SimNetwork) -> AsyncIterator[tuple[Node, Node]]:
    service = RpcService(NAME)
    service.stream(CALL, _talk_for_six_seconds)
    async with network.open_node("listener") as listener, network.open_node("talker") as talker:
        listener.add_addresses(talker.peer_id, talker.addresses)
        async with service.serving(talker):
            yield listener, talker


@simulated
async def test_a_call_that_says_nothing_is_vouched_for_by_another(network: SimNetwork) -> None:
    async with listener_and_talker(network) as (listener, talker):
        client = rpc_client(listener, NAME)
        calls = OpenCalls()
        began_s = trio.current_time()

        async def listen(talks: bool) -> None:
            async with client.open(talker.peer_id, CALL, Word(talks), timeout_s=1) as call:
                with calls.holding(call):
                    while await call.receive() is not None:
                        pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, False)
            nursery.start_soon(listen, True)
            await wait_silent(calls, talker.peer_id, SILENCE_S)
            nursery.cancel_scope.cancel()
        assert 6 + SILENCE_S <= trio.current_time() - began_s < 7 + SILENCE_S


@simulated
async def test_what_a_call_said_counts_after_its_end(network: SimNetwork) -> None:
    async with listener_and_talker(network) as (listener, talker):
        calls = OpenCalls()
        async with rpc_client(listener, NAME).open(
            talker.peer_id, CALL, Word(True), timeout_s=1
        ) as call:
            with calls.holding(call):
                await call.receive()
                heard_at_s = call.heard_at_s
        assert calls.heard_at_s(talker.peer_id) == heard_at_s > 0
        await wait_silent(calls, talker.peer_id, SILENCE_S)
        assert trio.current_time() == pytest.approx(heard_at_s + SILENCE_S + SOON_S, abs=1e-9)


@simulated
async def test_what_came_while_we_were_held_up_is_heard_before_anybody_is_silent(
    network: SimNetwork,
) -> None:
    del network
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    calls, began_s = OpenCalls(), trio.current_time()

    async def freeze() -> None:
        await trio.sleep(1)
        clock.jump(20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await wait_silent(calls, Identity.generate().peer_id, SILENCE_S)
    assert trio.current_time() - began_s == pytest.approx(21 + LATER_S, abs=1e-9)
