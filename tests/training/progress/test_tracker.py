"""Peers telling each other of their progress in a simulated network."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from averaging import RoundId
from p2p import Node, open_dht
from p2p.testing import SimNetwork, run_sim
from training.progress import PeerRecord, Position, ProgressConfig, Tracker, open_tracker

RUN = "run"
SPEC = bytes(32)
START = PeerRecord(position=Position(RoundId(0, bytes(32))), spec_hash=SPEC)
TARGET = 100


@asynccontextmanager
async def trackers(
    network: SimNetwork, names: tuple[str, ...], *, with_dht: bool = False
) -> AsyncIterator[tuple[dict[str, Node], dict[str, Tracker]]]:
    """Peers that take part; they know each other, or only the first one's address."""
    nodes: dict[str, Node] = {}
    found: dict[str, Tracker] = {}
    async with AsyncExitStack() as stack:
        for name in names:
            node = await stack.enter_async_context(network.open_node(name))
            initial = [nodes[first].addresses[0] for first in list(nodes)[:1]]
            dht = None
            if with_dht:
                dht = await stack.enter_async_context(open_dht(node, initial_peers=initial))
            nodes[name] = node
            found[name] = await stack.enter_async_context(open_tracker(node, RUN, START, dht=dht))
        for name, tracker in found.items():
            for other in nodes.values():
                if not with_dht:
                    nodes[name].add_addresses(other.peer_id, other.addresses)
                    tracker.meet([other.peer_id])
            await tracker.introduce()
        yield nodes, found
    assert network.handler_errors == []


async def until(condition: Callable[[], bool], *, within_s: float) -> float:
    """Simulated seconds until the condition holds."""
    started_s = trio.current_time()
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)
    return trio.current_time() - started_s


def test_progress_is_heard_within_a_round_trip() -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.01
        async with trackers(network, ("alice", "bob", "carol")) as (_, found):
            alice, bob = found["alice"], found["bob"]
            assert alice.view().samples == 0
            assert len(alice.view().expected) == 3
            bob.report(replace(bob.own, samples=60), target=TARGET)
            assert await until(lambda: alice.view().samples == 60, within_s=1) < 0.05

    run_sim(1, main)


def test_small_changes_are_told_with_the_next_sign_of_life() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob")) as (_, found):
            alice, bob = found["alice"], found["bob"]
            bob.report(replace(bob.own, samples=50), target=TARGET)
            await until(lambda: alice.view().samples == 50, within_s=1)
            bob.report(replace(bob.own, samples=52), target=TARGET)
            assert await until(lambda: alice.view().samples == 52, within_s=5) > 0.5

    run_sim(1, main)


def test_strangers_find_each_other_through_the_dht() -> None:
    async def main(network: SimNetwork) -> None:
        names = ("alice", "bob", "carol", "dave")
        async with trackers(network, names, with_dht=True) as (_, found):
            for tracker in found.values():
                await until(lambda t=tracker: len(t.view().expected) == 4, within_s=5)

    run_sim(1, main)


def test_joining_hears_first_of_those_who_are_there() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob"), with_dht=True) as (nodes, found):
            moved = Position(RoundId(5, bytes([5]) * 32), 5, 500)
            for tracker in found.values():
                tracker.on_moved(replace(tracker.own, position=moved), [])
            await trio.sleep(15)
            async with (
                network.open_node("carol") as carol,
                open_dht(carol, initial_peers=nodes["alice"].addresses) as dht,
                open_tracker(carol, RUN, START, dht=dht) as tracker,
            ):
                await tracker.introduce()
                assert tracker.view().ahead == moved
                assert len(tracker.view().donors) == 2

    run_sim(1, main)


async def seconds_of_a_batch(alice: Tracker, speeds: dict[Tracker, float]) -> float:
    """How long it takes until alice knows of enough samples, made at these rates."""
    for tick in range(200):
        for tracker, speed in speeds.items():
            own = replace(tracker.own, samples=round(tick * 0.1 * speed), samples_per_s=speed)
            tracker.report(own, target=TARGET)
        await trio.sleep(0.1)
        if alice.view().samples >= TARGET:
            return tick * 0.1
    raise AssertionError("the batch is never full")


def test_a_batch_takes_less_time_while_a_fast_peer_is_there() -> None:
    async def main(network: SimNetwork) -> None:
        seconds, speeds = [], []

        def rate() -> float:
            return sum(peer.samples_per_s for peer in alice.view().peers)

        async with trackers(network, ("alice",)) as (nodes, found):
            alice, node = found["alice"], nodes["alice"]
            seconds.append(await seconds_of_a_batch(alice, {alice: 10.0}))
            speeds.append(rate())
            async with (
                network.open_node("carol") as carol,
                open_tracker(carol, RUN, START, dht=None) as tracker,
            ):
                carol.add_addresses(node.peer_id, node.addresses)
                tracker.meet([node.peer_id])
                await tracker.introduce()
                seconds.append(await seconds_of_a_batch(alice, {alice: 10.0, tracker: 40.0}))
                speeds.append(rate())
            await until(lambda: len(alice.view().expected) == 1, within_s=5)
            seconds.append(await seconds_of_a_batch(alice, {alice: 10.0}))
            speeds.append(rate())
        assert seconds == pytest.approx([10.0, 2.0, 10.0], abs=0.5)
        assert speeds == [10.0, 50.0, 10.0]

    run_sim(1, main)


def test_a_crashed_peer_does_not_count_any_more_at_once() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob")) as (nodes, found):
            alice, bob = found["alice"], found["bob"]
            bob.report(replace(bob.own, samples=60), target=TARGET)
            await until(lambda: alice.view().samples == 60, within_s=1)
            network.crash(nodes["bob"].peer_id)
            assert await until(lambda: alice.view().samples == 0, within_s=10) < 0.5
            assert alice.view().expected == (nodes["alice"].peer_id,)

    run_sim(1, main)


def test_a_frozen_peer_does_not_count_until_it_thaws() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob")) as (nodes, found):
            alice, bob = found["alice"], found["bob"]
            bob.report(replace(bob.own, samples=60), target=TARGET)
            await until(lambda: alice.view().samples == 60, within_s=1)
            network.freeze(nodes["bob"].peer_id)
            assert await until(lambda: alice.view().samples == 0, within_s=20) < 6
            network.thaw(nodes["bob"].peer_id)
            assert await until(lambda: alice.view().samples == 60, within_s=20) < 10

    run_sim(1, main)


def test_after_a_delay_of_our_own_nobody_is_silent_before_the_others_are_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob")) as (_, found):
            await trio.sleep(0.1)
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, MockClock)
            for _ in range(5):
                clock.jump(7.3)
                await trio.sleep(1.9)
                assert all(len(tracker.view().expected) == 2 for tracker in found.values())

    with caplog.at_level("INFO"):
        run_sim(1, main)
    assert "peer_silent" not in caplog.text


def test_a_lost_connection_alone_makes_nobody_absent() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice", "bob")) as (nodes, found):
            alice, bob = found["alice"], found["bob"]
            bob.report(replace(bob.own, samples=60), target=TARGET)
            await until(lambda: alice.view().samples == 60, within_s=1)
            network.drop_connection(nodes["alice"].peer_id, nodes["bob"].peer_id)
            await until(lambda: alice.view().samples == 60, within_s=3)
            await trio.sleep(1)
            assert alice.view().samples == 60

    run_sim(1, main)


def test_a_peer_that_left_is_forgotten() -> None:
    async def main(network: SimNetwork) -> None:
        async with trackers(network, ("alice",), with_dht=True) as (nodes, found):
            async with (
                network.open_node("bob") as bob,
                open_dht(bob, initial_peers=nodes["alice"].addresses) as dht,
                open_tracker(bob, RUN, START, dht=dht) as tracker,
            ):
                await tracker.introduce()
                await until(lambda: len(found["alice"].view().peers) == 2, within_s=2)
            await until(lambda: len(found["alice"].view().peers) == 1, within_s=2)
            await trio.sleep(120)
            assert found["alice"]._couriers == {}
            assert found["alice"]._core.known() == ()

    run_sim(1, main)


def test_two_clients_know_each_other_by_the_dht_alone() -> None:
    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
            nodes, _ = await stack.enter_async_context(trackers(network, ("alice",), with_dht=True))
            clients: list[Tracker] = []
            for name in ("bob", "carol"):
                node = await stack.enter_async_context(network.open_node(name, client_mode=True))
                dht = await stack.enter_async_context(
                    open_dht(node, initial_peers=nodes["alice"].addresses)
                )
                own = replace(START, role="client", samples=7)
                clients.append(
                    await stack.enter_async_context(open_tracker(node, RUN, own, dht=dht))
                )
            for client in clients:
                await client.introduce()
            for client in clients:
                await until(lambda c=client: c.view().samples == 14, within_s=30)
                assert len(client.view().expected) == 3

    run_sim(1, main)


def test_other_models_are_seen_but_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main(network: SimNetwork) -> None:
        other = replace(START, spec_hash=bytes([9]) * 32, samples=50)
        async with (
            trackers(network, ("alice",)) as (nodes, found),
            network.open_node("bob") as bob,
            open_tracker(bob, RUN, other, dht=None) as tracker,
        ):
            bob.add_addresses(nodes["alice"].peer_id, nodes["alice"].addresses)
            tracker.meet([nodes["alice"].peer_id])
            await tracker.introduce()
            view = found["alice"].view()
            assert [peer_id for peer_id, _ in view.strangers] == [bob.peer_id]
            assert view.samples == 0

    run_sim(1, main)
    assert [r.message for r in caplog.records if "peer_differs" in r.message]


def test_no_more_peers_are_held_than_allowed() -> None:
    async def main(network: SimNetwork) -> None:
        config = ProgressConfig(peers_max=2, couriers_max=2)
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(network.open_node("alice"))
            tracker = await stack.enter_async_context(
                open_tracker(alice, RUN, START, dht=None, config=config)
            )
            await tracker.introduce()
            for name in ("bob", "carol", "dave"):
                node = await stack.enter_async_context(network.open_node(name))
                node.add_addresses(alice.peer_id, alice.addresses)
                other = await stack.enter_async_context(open_tracker(node, RUN, START, dht=None))
                other.meet([alice.peer_id])
                await other.introduce()
            assert len(tracker.view().peers) == 3, "itself and two others"

    run_sim(1, main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"life_s": 0.0},
        {"heartbeat_s": 60.0},
        {"life_s": 10_000.0},
        {"couriers_max": 0},
        {"peers_max": 1},
    ],
)
def test_senseless_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ProgressConfig(**wrong)  # type: ignore[arg-type]
