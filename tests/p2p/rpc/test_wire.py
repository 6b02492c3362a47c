"""The bytes of calls: recorded ones, round trips, and garbage from strangers."""

import contextlib
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import MessageInvalid, RefusedError, StreamBroken, decode_untrusted, encode, rpc_client
from p2p.rpc import schema
from p2p.testing import SimNetwork, run_sim
from tests.p2p.rpc.services import DOUBLE, NAME, Calls, Number, caller_and_callee, open_raw
from tests.simulated import simulated

CONTROLS = (schema.CallHeader, schema.Refusal, schema.Failure)


def test_recorded_bytes_of_version_1() -> None:
    header = schema.CallHeader("double", 2.5)
    assert encode(header).hex() == "92a6646f75626c65cb4004000000000000"
    refusal = schema.Refusal("busy", "later")
    assert encode(refusal).hex() == "92a462757379a56c61746572"
    assert encode(schema.Failure("no")).hex() == "91a26e6f"
    frame = schema.frame(schema.REFUSED, encode(refusal), 258)
    assert frame.hex() == "020000000c00000102" + encode(refusal).hex()
    assert (schema.MESSAGE, schema.CALL, schema.REFUSED, schema.FAILED) == (0, 1, 2, 3)


texts = st.text(min_size=1, max_size=64)


@given(
    st.one_of(
        st.builds(schema.CallHeader, texts, st.floats(0, schema.TIMEOUT_S_MAX, exclude_min=True)),
        st.builds(schema.Refusal, texts, st.text(max_size=512)),
        st.builds(schema.Failure, st.text(max_size=512)),
    )
)
def test_control_messages_survive_a_round_trip(
    message: schema.CallHeader | schema.Refusal | schema.Failure,
) -> None:
    decoded = decode_untrusted(encode(message), type(message), size_bytes_max=10_000)
    assert decoded == message


@given(st.binary(max_size=200), st.sampled_from(CONTROLS))
def test_garbage_is_no_control_message(
    data: bytes, kind: type[schema.CallHeader | schema.Refusal | schema.Failure]
) -> None:
    try:
        decoded = decode_untrusted(data, kind, size_bytes_max=schema.CONTROL_BYTES_MAX)
    except MessageInvalid:
        return
    assert isinstance(decoded, kind)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_timeouts_of_strangers_are_checked(timeout_s: float) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(
            encode(schema.CallHeader("double", timeout_s)), schema.CallHeader, size_bytes_max=100
        )


def good_call() -> bytes:
    """The bytes of a good call."""
    header = schema.frame(schema.CALL, encode(schema.CallHeader("double", 5.0)))
    return header + schema.frame(schema.MESSAGE, encode(Number(4)))


@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(st.integers(0, 60), st.binary(max_size=40)).map(
            lambda cut: good_call()[: cut[0]] + cut[1]
        ),
        st.tuples(st.integers(0, 45), st.integers(0, 255)).map(
            lambda change: (
                good_call()[: change[0]] + bytes([change[1]]) + good_call()[change[0] + 1 :]
            )
        ),
    ),
    st.booleans(),
)
def test_garbage_harms_no_service(garbage: bytes, finishes: bool) -> None:
    async def main(network: SimNetwork) -> None:
        async with caller_and_callee(network, Calls().service) as (alice, bob):
            stream = await open_raw(alice, bob)
            await stream.send_all(garbage)
            if finishes:
                await stream.send_eof()
            try:
                with trio.fail_after(60):
                    while await stream.receive_some():
                        pass
            except StreamBroken:
                pass
            await stream.aclose()
            client = rpc_client(alice, NAME)
            assert await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=1) == Number(2)
        assert network.handler_errors == []

    run_sim(1, main)


@given(st.binary(max_size=200), st.booleans())
def test_garbage_harms_no_caller(garbage: bytes, half_good: bool) -> None:
    answer = schema.frame(schema.MESSAGE, encode(Number(8)))

    async def main(network: SimNetwork) -> None:
        async with network.open_node() as alice, network.open_node() as bob:
            alice.add_addresses(bob.peer_id, bob.addresses)

            async def babble(stream: trio.abc.Stream) -> None:
                await stream.send_all(answer[: len(garbage) % 12] if half_good else b"")
                await stream.send_all(garbage)

            bob.serve("/manyhands/test/1", babble)
            client = rpc_client(alice, NAME)
            with contextlib.suppress(MessageInvalid, RefusedError, StreamBroken):
                await client.call(bob.peer_id, DOUBLE, Number(4), timeout_s=5)

    run_sim(1, main)


@simulated
async def test_a_stranger_who_says_nothing_is_cut_off(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        for beginning in (b"", good_call()[:5], good_call()[:30]):
            stream = await open_raw(alice, bob)
            start_s = trio.current_time()
            await stream.send_all(beginning)
            answer = b""
            while data := await stream.receive_some():
                answer += data
            assert b"did not come in time" in answer
            assert trio.current_time() - start_s == pytest.approx(15, abs=0.1)


@simulated
async def test_a_caller_that_does_not_read_its_answers_is_cut_off(network: SimNetwork) -> None:
    calls = Calls(calls_per_peer_max=1)
    async with caller_and_callee(network, calls.service) as (alice, bob):
        stream = await open_raw(alice, bob)
        await stream.send_all(good_call() + bytes(10_000))
        await trio.sleep(1)
        # The call is over for the callee, read or not.
        client = rpc_client(alice, NAME)
        assert await client.call(bob.peer_id, DOUBLE, Number(1), timeout_s=1) == Number(2)


@simulated
async def test_kinds_of_frames_that_do_not_belong(network: SimNetwork) -> None:
    async with caller_and_callee(network, Calls().service) as (alice, bob):
        for kind in (schema.MESSAGE, schema.REFUSED, schema.FAILED, 4, 255):
            stream = await open_raw(alice, bob)
            await stream.send_all(schema.frame(kind, b"\x90"))
            answer = await stream.receive_some()
            assert answer[0] == schema.REFUSED
            assert b"invalid" in answer


def test_recorded_garbage() -> None:
    """Long runs of noise of all sizes, repeatable."""
    rng = random.Random(4)

    async def main(network: SimNetwork) -> None:
        async with caller_and_callee(network, Calls().service) as (alice, bob):
            for size_bytes in (1, 8, 9, 10, 100, 10_000, 60_000):
                stream = await open_raw(alice, bob)
                await stream.send_all(bytes([schema.CALL]) + rng.randbytes(size_bytes))
                await stream.aclose()
            await trio.sleep(60)
        assert network.handler_errors == []

    run_sim(4, main)
