"""Calls with one request and one answer, between simulated nodes."""

import pytest
import trio

from p2p import (
    CallTimeout,
    Identity,
    MessageInvalid,
    Method,
    Node,
    PeerId,
    RefusedError,
    RemoteError,
    RpcClient,
    RpcService,
    StreamBroken,
    UnreachableError,
    rpc_client,
)
from p2p.testing import SimNetwork
from tests.p2p.rpc.services import (
    DOUBLE,
    FAIL,
    NAME,
    REPEAT,
    SLEEP,
    Calls,
    Number,
    Text,
    caller_and_callee,
)
from tests.simulated import simulated


@simulated
async def test_a_call_takes_one_round_trip(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        assert await client.call(bob.peer_id, DOUBLE, Number(4), timeout_s=1) == Number(8)
        connected_at_s = trio.current_time()
        assert await client.call(bob.peer_id, DOUBLE, Number(5), timeout_s=1) == Number(10)
        assert trio.current_time() - connected_at_s == pytest.approx(0.02)


@simulated
async def test_calls_at_once_do_not_wait_for_each_other(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        await alice.connect(bob.peer_id)

        async def call() -> None:
            await client.call(bob.peer_id, SLEEP, Number(1), timeout_s=5)

        start_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(call)
        assert trio.current_time() - start_s == pytest.approx(1.02)


@simulated
async def test_the_handler_knows_the_caller(network: SimNetwork) -> None:
    callers: list[PeerId] = []

    async def note(caller: PeerId, request: Number) -> Number:
        callers.append(caller)
        return request

    service = RpcService(NAME)
    service.unary(DOUBLE, note)
    async with caller_and_callee(network, service) as (alice, bob):
        await rpc_client(alice, NAME).call(bob.peer_id, DOUBLE, Number(1), timeout_s=1)
        assert callers == [alice.peer_id]


@simulated
async def test_services_and_majors_are_apart(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        for name, major in (("other", 1), (NAME, 2)):
            with pytest.raises(RefusedError) as caught:
                await rpc_client(alice, name, major).call(
                    bob.peer_id, DOUBLE, Number(1), timeout_s=1
                )
            assert caught.value.code == "protocol-not-supported"


# Refusals and failures


async def fail(client: RpcClient, callee: Node, how: str) -> None:
    await client.call(callee.peer_id, FAIL, Text(how), timeout_s=1)


@simulated
async def test_refusals_come_back_as_they_were_raised(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(RefusedError) as caught:
            await fail(client, bob, "refuse")
        assert (caught.value.code, caught.value.message) == ("not-found", "no such thing")
        with pytest.raises(RefusedError) as caught:
            await fail(client, bob, "long refusal")
        assert (caught.value.code, caught.value.message) == ("c" * 64, "m" * 512)


@simulated
async def test_failures_of_the_callee_name_their_cause_if_it_is_fit_for_strangers(
    network: SimNetwork,
) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(RemoteError, match="the peers behind me are gone"):
            await fail(client, bob, "ours")
        assert network.handler_errors == []
        with pytest.raises(RemoteError, match="internal error") as caught:
            await fail(client, bob, "bug")
        assert "secret" not in str(caught.value)
        [found] = network.handler_errors
        assert isinstance(found.error, KeyError)
        assert found.error.__notes__ == ["while serving /manyhands/test/1"]
        # The service goes on.
        await fail(client, bob, "not")


@simulated
async def test_an_unknown_method_is_refused(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        with pytest.raises(RefusedError) as caught:
            await rpc_client(alice, NAME).call(
                bob.peer_id, Method("nothing", Number, Number), Number(1), timeout_s=1
            )
        assert (caught.value.code, caught.value.message) == ("unknown-method", "nothing")


@simulated
async def test_an_unreachable_peer(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, _):
        stranger = Identity.generate().peer_id
        with pytest.raises(UnreachableError):
            await rpc_client(alice, NAME).call(stranger, DOUBLE, Number(1), timeout_s=1)


# Time


@simulated
async def test_a_timeout_reaches_the_handler(network: SimNetwork) -> None:
    calls = Calls()
    async with caller_and_callee(network, calls.service) as (alice, bob):
        with pytest.raises(CallTimeout, match=r"did not answer sleep in 2 s"):
            await rpc_client(alice, NAME).call(bob.peer_id, SLEEP, Number(60), timeout_s=2)
        assert trio.current_time() == pytest.approx(2)
        await trio.sleep(0.05)
        [(how, when_s)] = calls.ended
        assert how == "cancelled"
        assert when_s == pytest.approx(2.01)


@simulated
async def test_the_deadline_holds_at_the_callee_when_the_caller_is_not_heard(
    network: SimNetwork,
) -> None:
    calls = Calls()
    async with caller_and_callee(network, calls.service) as (alice, bob):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(CallTimeout):
                    await rpc_client(alice, NAME).call(bob.peer_id, SLEEP, Number(60), timeout_s=2)

            nursery.start_soon(call)
            await trio.sleep(1)
            network.freeze(alice.peer_id)
        await trio.sleep(0.1)
        assert [how for how, _ in calls.ended] == ["cancelled"]


@simulated
async def test_no_time_left_is_a_timeout(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        for timeout_s in (0.0, -1.0):
            with pytest.raises(CallTimeout):
                await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=timeout_s)
            with pytest.raises(CallTimeout):
                async with client.open(bob.peer_id, DOUBLE, Number(1), timeout_s=timeout_s):
                    pass
        assert await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=1e9) == Number(2)


@simulated
async def test_a_timeout_includes_connecting(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        network.freeze(bob.peer_id)
        with pytest.raises(CallTimeout):
            await rpc_client(alice, NAME).call(bob.peer_id, DOUBLE, Number(1), timeout_s=3)
        assert trio.current_time() == 3


@simulated
async def test_a_cancelled_caller_stops_the_handler(network: SimNetwork) -> None:
    calls = Calls()
    async with caller_and_callee(network, calls.service) as (alice, bob):
        with trio.move_on_after(1):
            await rpc_client(alice, NAME).call(bob.peer_id, SLEEP, Number(60), timeout_s=60)
        assert calls.running == 1
        await trio.sleep(0.011)
        assert calls.running == 0


# Connections and blocks that end


@simulated
async def test_a_lost_connection_ends_the_call_at_both_sides(network: SimNetwork) -> None:
    calls = Calls()
    async with (
        caller_and_callee(network, calls.service) as (alice, bob),
        trio.open_nursery() as nursery,
    ):

        async def call() -> None:
            with pytest.raises(StreamBroken):
                await rpc_client(alice, NAME).call(bob.peer_id, SLEEP, Number(60), timeout_s=60)

        nursery.start_soon(call)
        await trio.sleep(1)
        network.drop_connection(alice.peer_id, bob.peer_id)
        await trio.sleep(0.001)
        assert calls.running == 0


@simulated
async def test_the_end_of_the_serving_block_cancels_its_calls_and_waits_for_them(
    network: SimNetwork,
) -> None:
    cleaned_up = False

    async def linger(caller: PeerId, request: Number) -> Number:
        nonlocal cleaned_up
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 2, shield=True):
                await trio.sleep(1)
            cleaned_up = True
        raise AssertionError("never here")

    service = RpcService(NAME)
    service.unary(SLEEP, linger)
    async with network.open_node() as alice, network.open_node() as bob:
        alice.add_addresses(bob.peer_id, bob.addresses)
        client = rpc_client(alice, NAME)

        async def call() -> None:
            with pytest.raises(StreamBroken):
                await client.call(bob.peer_id, SLEEP, Number(60), timeout_s=60)

        async with trio.open_nursery() as nursery:
            async with service.serving(bob):
                nursery.start_soon(call)
                await trio.sleep(5)
            assert trio.current_time() == 6
            assert cleaned_up
        with pytest.raises(RefusedError) as caught:
            await client.call(bob.peer_id, SLEEP, Number(1), timeout_s=1)
        assert caught.value.code == "protocol-not-supported"
        # A service may be served again.
        async with Calls().service.serving(bob):
            assert await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=1) == Number(2)
    assert network.handler_errors == []


@simulated
async def test_a_call_that_arrives_as_the_block_ends_is_no_error(network: SimNetwork) -> None:
    async with network.open_node() as alice, network.open_node() as bob:
        alice.add_addresses(bob.peer_id, bob.addresses)
        await alice.connect(bob.peer_id)
        for microseconds in range(9_990, 10_010):
            client = rpc_client(alice, NAME)
            outcome: list[type] = []

            async def call(client: RpcClient = client, outcome: list[type] = outcome) -> None:
                try:
                    answer = await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=1)
                    outcome.append(type(answer))
                except (RefusedError, StreamBroken) as exc:
                    outcome.append(type(exc))

            async with trio.open_nursery() as nursery, Calls().service.serving(bob):
                nursery.start_soon(call)
                await trio.sleep(microseconds * 1e-6)
            assert len(outcome) == 1
    assert network.handler_errors == []


# Limits


@simulated
async def test_what_is_too_large_is_our_own_mistake(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(ValueError, match="over its limit"):
            await client.call(bob.peer_id, FAIL, Text("x" * 10_001), timeout_s=1)
        await client.call(bob.peer_id, REPEAT, Number(900), timeout_s=1)
        with pytest.raises(RemoteError, match="internal error"):
            await client.call(bob.peer_id, REPEAT, Number(1_100), timeout_s=1)
        [found] = network.handler_errors
        assert isinstance(found.error, ValueError)


@simulated
async def test_what_a_peer_sends_too_large_is_refused(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        # The callee says so before it has read all, and stops what is beyond any window.
        bold = Method("fail", Text, Text, request_bytes_max=4_000_000)
        for size_bytes in (10_001, 200_000, 3_000_000):
            with pytest.raises(RefusedError) as caught:
                await client.call(bob.peer_id, bold, Text("x" * size_bytes), timeout_s=1)
            assert caught.value.code == "invalid"
        timid = Method("repeat", Number, Text, response_bytes_max=100)
        with pytest.raises(MessageInvalid, match="over the limits"):
            await client.call(bob.peer_id, timid, Number(200), timeout_s=1)


@simulated
async def test_types_are_checked_at_both_ends(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        client = rpc_client(alice, NAME)
        with pytest.raises(RefusedError) as caught:
            await client.call(
                bob.peer_id, Method("double", Text, Number), Text("four"), timeout_s=1
            )
        assert caught.value.code == "invalid"
        with pytest.raises(MessageInvalid):
            await client.call(bob.peer_id, Method("double", Number, Text), Number(4), timeout_s=1)


@simulated
async def test_calls_at_once_are_limited_by_peer(network: SimNetwork) -> None:
    calls = Calls(calls_per_peer_max=3)
    async with (
        caller_and_callee(network, calls.service) as (alice, bob),
        network.open_node("carol") as carol,
        trio.open_nursery() as nursery,
    ):
        carol.add_addresses(bob.peer_id, bob.addresses)

        async def call() -> None:
            await rpc_client(alice, NAME).call(bob.peer_id, SLEEP, Number(10), timeout_s=60)

        for _ in range(3):
            nursery.start_soon(call)
        await trio.sleep(1)
        with pytest.raises(RefusedError) as caught:
            await rpc_client(alice, NAME).call(bob.peer_id, DOUBLE, Number(1), timeout_s=1)
        assert caught.value.code == "busy"
        await rpc_client(carol, NAME).call(bob.peer_id, DOUBLE, Number(1), timeout_s=1)
        await trio.sleep(10)
        await rpc_client(alice, NAME).call(bob.peer_id, DOUBLE, Number(1), timeout_s=1)
