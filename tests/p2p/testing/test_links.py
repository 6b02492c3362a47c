"""Latency, bandwidth and jitter of simulated links."""

import pytest
import trio

from p2p import Node, Stream
from p2p.testing import SimNetwork
from tests.p2p.testing.two_nodes import ECHO, SINK, alice_and_bob, ping
from tests.simulated import simulated


@simulated
async def test_dialing_takes_a_round_trip_and_so_does_a_call(network: SimNetwork) -> None:
    network.default_latency_s = 0.125
    async with alice_and_bob(network) as (alice, bob):
        await alice.connect(bob.peer_id)
        assert trio.current_time() == 0.25
        stream = await alice.open_stream(bob.peer_id, ECHO)
        assert trio.current_time() == 0.25
        # Opening and the first bytes travel together.
        assert await ping(stream) == 0.25
        assert await ping(stream) == 0.25


@simulated
async def test_a_link_can_be_set_and_changed_under_way(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob), network.open_node("carol") as carol:
        carol.add_addresses(bob.peer_id, bob.addresses)
        network.set_link(alice.peer_id, bob.peer_id, latency_s=0.5)
        stream = await alice.open_stream(bob.peer_id, ECHO)
        assert await ping(stream) == pytest.approx(1.0)
        other = await carol.open_stream(bob.peer_id, ECHO)
        assert await ping(other) == pytest.approx(0.02)
        network.set_link(bob.peer_id, alice.peer_id, latency_s=0.25, bytes_per_s=1e9)
        assert await ping(stream) == pytest.approx(0.5)


@simulated
async def test_bandwidth_bounds_a_transfer(network: SimNetwork) -> None:
    network.default_latency_s = 0.0
    network.default_bytes_per_s = 1_000_000
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, SINK)
        await stream.send_all(bytes(3_000_000))
        await stream.send_eof()
        size, seconds = (await stream.receive_some()).split()
        assert int(size) == 3_000_000
        assert float(seconds) == pytest.approx(3.0)


@simulated
async def test_streams_of_a_connection_share_its_bandwidth_fairly(network: SimNetwork) -> None:
    network.default_latency_s = 0.001
    network.default_bytes_per_s = 1_000_000
    async with alice_and_bob(network) as (alice, bob):
        finished: dict[str, float] = {}

        async def transfer(name: str, size_bytes: int) -> None:
            stream = await alice.open_stream(bob.peer_id, SINK)
            await stream.send_all(bytes(size_bytes))
            await stream.send_eof()
            finished[name] = float((await stream.receive_some()).split()[1])

        async def call() -> None:
            await trio.sleep(0.5)
            stream = await alice.open_stream(bob.peer_id, ECHO)
            assert await ping(stream) < 0.3

        await alice.connect(bob.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transfer, "short", 500_000)
            nursery.start_soon(transfer, "long", 2_000_000)
            nursery.start_soon(call)
        assert finished["short"] == pytest.approx(1.0, abs=0.15)
        assert finished["long"] == pytest.approx(2.5, abs=0.1)


@simulated
async def test_a_slow_link_is_left_at_once_by_a_sender_whose_stream_breaks(
    network: SimNetwork,
) -> None:
    async with alice_and_bob(network) as (alice, bob):
        network.set_link(alice.peer_id, bob.peer_id, bytes_per_s=100)
        stream = await alice.open_stream(bob.peer_id, SINK)

        async def send() -> None:
            with pytest.raises(Exception, match="connection was lost"):
                await stream.send_all(bytes(10_000))
            assert trio.current_time() == 1.0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep_until(1.0)
            network.crash(bob.peer_id)


@simulated
async def test_jitter_stretches_delays_and_keeps_the_order(network: SimNetwork) -> None:
    network.default_latency_s = 0.1
    network.jitter = 0.5
    async with alice_and_bob(network) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, ECHO)
        times = [await ping(stream) for _ in range(50)]
        assert min(times) >= 0.2 - 1e-9
        assert max(times) <= 0.3 + 1e-9
        assert len({round(seconds, 9) for seconds in times}) > 40
        for index in range(100):
            await stream.send_all(bytes([index]))
            await trio.sleep(0.001)
        assert await stream.receive_exactly(100) == bytes(range(100))


@simulated
async def test_links_are_checked(network: SimNetwork) -> None:
    with pytest.raises(ValueError, match="latency"):
        network.default_latency_s = -1.0
    with pytest.raises(ValueError, match="rate"):
        network.default_bytes_per_s = 0.0


@simulated
async def test_back_pressure_reaches_the_sender(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        taken: list[Stream] = []

        async def keep(stream: Stream) -> None:
            taken.append(stream)
            await trio.sleep_forever()

        bob.serve("/test/keep/1", keep)
        stream = await alice.open_stream(bob.peer_id, "/test/keep/1")
        with trio.move_on_after(10) as scope:
            await stream.send_all(bytes(1_048_576))
            await stream.send_all(b"x")
        assert scope.cancelled_caught
        # Nothing of the second message was out, so the stream is still good.
        await taken[0].receive_exactly(1_000)
        with trio.fail_after(1):
            await stream.wait_send_all_might_not_block()
            await stream.send_all(b"x")


def streams_of(node: Node) -> int:
    """How many streams its connections keep."""
    return sum(len(end._streams) for end in node._transport._ends)  # type: ignore[attr-defined]


@simulated
async def test_thousands_of_streams_leave_nothing_behind(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        for _ in range(2_000):
            stream = await alice.open_stream(bob.peer_id, ECHO)
            await stream.send_all(b"x")
            await stream.send_eof()
            assert await stream.receive_exactly(1) == b"x"
            await stream.aclose()
        await trio.sleep(60)
        assert streams_of(alice) == streams_of(bob) == 0
