"""Calls with many messages and raw payloads, between simulated nodes."""

import array
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from p2p import (
    CallTimeout,
    Message,
    MessageInvalid,
    Method,
    RefusedError,
    RemoteError,
    RpcCall,
    RpcService,
    StreamBroken,
    encode,
    rpc_client,
)
from p2p.rpc import schema
from p2p.rpc.client import _opening
from p2p.testing import SimNetwork
from p2p.testing.stream import WINDOW_BYTES
from tests.p2p.rpc.services import NAME, caller_and_callee
from tests.simulated import simulated

PAYLOAD_BYTES_MAX = 2_000_000


class Open(Message, frozen=True, tag="open"):
    """The first message of a call."""


class Part(Message, frozen=True, tag="part"):
    """One of many."""

    index: int


OPEN_OR_PART: Any = Open | Part
CALL: Method[Any, Part] = Method("call", OPEN_OR_PART, Part, payload_bytes_max=PAYLOAD_BYTES_MAX)
Handler = Callable[[RpcCall[Any, Any]], Awaitable[None]]


def serving(handler: Handler) -> RpcService:
    """A service of the one streaming method."""
    service = RpcService(NAME)
    service.stream(CALL, handler)
    return service


async def echo(call: RpcCall[Part, Open | Part]) -> None:
    """Send every message back."""
    while (received := await call.receive()) is not None:
        message, payload = received
        assert isinstance(message, Part)
        await call.send(message, payload)


@simulated
async def test_messages_go_both_ways_in_order(network: SimNetwork) -> None:
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            assert (call.peer_id, call.path) == (bob.peer_id, "direct")
            for index in range(100):
                await call.send(Part(index), bytes([index]) * index)
            await call.finish_sending()
            for index in range(100):
                assert await call.receive() == (Part(index), bytes([index]) * index)
            assert await call.receive() is None
            assert await call.receive() is None


@simulated
async def test_the_callee_sees_the_request_and_the_caller(network: SimNetwork) -> None:
    seen: list[object] = []

    async def note(call: RpcCall[Part, Open | Part]) -> None:
        seen.extend([call.peer_id, call.request, call.request_payload, call.path])

    async with caller_and_callee(network, serving(note)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            assert await call.receive() is None
        assert seen == [alice.peer_id, Open(), b"", "direct"]


@simulated
async def test_payloads_of_any_size_and_kind_arrive_as_they_are(network: SimNetwork) -> None:
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        floats = array.array("f", range(100_000))
        payloads: list[bytes | bytearray | memoryview] = [
            b"",
            b"x" * 16_384,
            bytearray(b"y" * 16_385),
            memoryview(floats),
            memoryview(floats)[10:20],
            bytes(PAYLOAD_BYTES_MAX),
        ]
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            for payload in payloads:
                await call.send(Part(0), payload)
                received = await call.receive()
                assert received is not None
                assert received[1] == bytes(payload)


@simulated
async def test_what_is_over_the_limits_is_not_sent(network: SimNetwork) -> None:
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            with pytest.raises(ValueError, match="over the method's limits"):
                await call.send(Part(1), bytes(PAYLOAD_BYTES_MAX + 1))
            # Elements of four bytes each are counted in bytes.
            with pytest.raises(ValueError, match="over the method's limits"):
                await call.send(Part(1), memoryview(array.array("f", bytes(2_000_004))))
            await call.send(Part(2))
            assert await call.receive() == (Part(2), b"")


@simulated
async def test_a_callee_that_sends_too_much_is_found_out(network: SimNetwork) -> None:
    async def send(call: RpcCall[Part, Open | Part]) -> None:
        await call.send(Part(1), bytes(1_001))

    timid = Method("call", OPEN_OR_PART, Part, payload_bytes_max=1_000)
    async with caller_and_callee(network, serving(send)) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(MessageInvalid, match="over the limits"):
            async with client.open(bob.peer_id, timid, Open(), timeout_s=1) as call:
                await call.receive()


@simulated
async def test_a_caller_that_sends_too_much_is_refused(network: SimNetwork) -> None:
    bold = Method("call", OPEN_OR_PART, Part, payload_bytes_max=PAYLOAD_BYTES_MAX + 1)
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises((RefusedError, StreamBroken)):
            async with client.open(bob.peer_id, bold, Open(), timeout_s=1) as call:
                await call.send(Part(1), bytes(PAYLOAD_BYTES_MAX + 1))
                await call.receive()


@simulated
async def test_the_callee_may_refuse_or_fail_at_any_time(network: SimNetwork) -> None:
    async def serve(call: RpcCall[Part, Open | Part]) -> None:
        received = await call.receive()
        assert received is not None
        message = received[0]
        await call.send(Part(0))
        assert isinstance(message, Part)
        if message.index == 1:
            raise RefusedError("stale", "another round")
        raise KeyError("a bug")

    async with caller_and_callee(network, serving(serve)) as (alice, bob):
        client = rpc_client(alice, NAME)
        for index, error, match in ((1, RefusedError, "stale"), (2, RemoteError, "internal")):
            with pytest.raises(error, match=match):
                async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
                    await call.send(Part(index))
                    assert await call.receive() == (Part(0), b"")
                    await call.receive()
        assert [type(found.error) for found in network.handler_errors] == [KeyError]


@simulated
async def test_after_finishing_it_is_too_late_to_refuse(network: SimNetwork) -> None:
    async def serve(call: RpcCall[Part, Open | Part]) -> None:
        await call.finish_sending()
        raise RefusedError("late")

    async with caller_and_callee(network, serving(serve)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            assert await call.receive() is None
            with pytest.raises(StreamBroken):
                await call.send(Part(1))


# Ends


@simulated
async def test_leaving_with_an_error_resets_the_call(network: SimNetwork) -> None:
    seen: list[str] = []

    async def serve(call: RpcCall[Part, Open | Part]) -> None:
        await call.wait_broken()
        seen.append("broken")
        await call.receive()

    async with caller_and_callee(network, serving(serve)) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(KeyError):
            async with client.open(bob.peer_id, CALL, Open(), timeout_s=1):
                await trio.sleep(1)
                raise KeyError("x")
        await trio.sleep(0.011)
        assert seen == ["broken"]
    assert network.handler_errors == []


@simulated
async def test_leaving_well_closes_the_call(network: SimNetwork) -> None:
    ends: list[object] = []

    async def serve(call: RpcCall[Part, Open | Part]) -> None:
        ends.append(await call.receive())
        ends.append(await call.receive())

    async with caller_and_callee(network, serving(serve)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            await call.send(Part(7))
        await trio.sleep(1)
        assert ends == [(Part(7), b""), None]


@simulated
async def test_a_callee_whose_caller_has_left_does_not_send_forever(network: SimNetwork) -> None:
    async def send(call: RpcCall[Part, Open | Part]) -> None:
        try:
            while True:
                await call.send(Part(0), bytes(1_000))
                await trio.sleep(0.01)
        finally:
            seen.append(trio.current_time())

    seen: list[float] = []
    async with caller_and_callee(network, serving(send)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            await call.receive()
        await trio.sleep(5)
        assert len(seen) == 1
    assert network.handler_errors == []


@simulated
async def test_the_end_of_the_serving_block_breaks_open_calls(network: SimNetwork) -> None:
    async with network.open_node() as alice, network.open_node() as bob:
        client = rpc_client(alice, NAME)
        alice.add_addresses(bob.peer_id, bob.addresses)
        async with trio.open_nursery() as nursery:

            async def call_and_wait() -> None:
                with pytest.raises(StreamBroken):
                    async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
                        await call.receive()

            async with serving(echo).serving(bob):
                nursery.start_soon(call_and_wait)
                await trio.sleep(1)


@simulated
async def test_a_handler_whose_tasks_all_lose_the_caller_is_no_error(network: SimNetwork) -> None:
    async def serve(call: RpcCall[Part, Open | Part]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.receive)
            while True:
                await call.send(Part(0))
                await trio.sleep(0.1)

    async with caller_and_callee(network, serving(serve)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            await call.receive()
            network.drop_connection(alice.peer_id, bob.peer_id)
            with pytest.raises(StreamBroken):
                await call.send(Part(0))
        await trio.sleep(1)
    assert network.handler_errors == []


@simulated
async def test_opening_is_bounded_in_time_but_the_call_is_not(network: SimNetwork) -> None:
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            await trio.sleep(5_000)
            await call.send(Part(1))
            assert await call.receive() == (Part(1), b"")
        await alice.disconnect(bob.peer_id)
        network.freeze(bob.peer_id)
        with pytest.raises(CallTimeout, match="could not be called in 2 s"):
            async with client.open(bob.peer_id, CALL, Open(), timeout_s=2):
                pass


# Cancellation and back-pressure


@simulated
async def test_a_cancelled_receive_loses_no_part_of_a_message(network: SimNetwork) -> None:
    network.default_bytes_per_s = 10_000
    async with caller_and_callee(network, serving(echo)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=5) as call:
            payload = bytes(range(250)) * 40

            async def send() -> None:
                for index in range(3):
                    await call.send(Part(index), payload)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                received: list[object] = []
                attempts = 0
                while len(received) < 3:
                    attempts += 1
                    with trio.move_on_after(0.0173):
                        received.append(await call.receive())
            assert attempts > 50
            assert received == [(Part(index), payload) for index in range(3)]


@simulated
async def test_a_send_cancelled_within_a_message_resets_the_call(network: SimNetwork) -> None:
    async def wait(call: RpcCall[Part, Open | Part]) -> None:
        await call.wait_broken()
        broken.set()

    broken = trio.Event()
    async with caller_and_callee(network, serving(wait)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            # The window of a stream is just full when the second message's head has been sent.
            head_bytes = len(schema.frame(schema.MESSAGE, encode(Part(0))))
            opening_bytes = len(_opening(CALL, Open(), 3600.0))
            await call.send(Part(0), bytes(WINDOW_BYTES - opening_bytes - 2 * head_bytes))
            with trio.move_on_after(1) as scope:
                await call.send(Part(1), bytes(20_000))
            assert scope.cancelled_caught
            with trio.fail_after(1):
                await broken.wait()
            with pytest.raises(StreamBroken):
                await call.send(Part(2))


@simulated
async def test_a_callee_that_does_not_read_holds_the_caller_back(network: SimNetwork) -> None:
    async def wait(call: RpcCall[Part, Open | Part]) -> None:
        await trio.sleep(100)
        while await call.receive() is not None:
            pass

    async with caller_and_callee(network, serving(wait)) as (alice, bob):
        client = rpc_client(alice, NAME)
        async with client.open(bob.peer_id, CALL, Open(), timeout_s=1) as call:
            for _ in range(3):
                await call.send(Part(0), bytes(500_000))
            assert trio.current_time() > 100
            await call.finish_sending()
            assert await call.receive() is None
