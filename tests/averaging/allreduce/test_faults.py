"""All-reduce when members crash, freeze, part, lie or leave: the same bits, or nothing, in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import trio

from averaging.allreduce.service import open_allreduce
from averaging.matchmaking.group import parse_group_untrusted
from p2p import Node
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Outcome,
    Peer,
    connect_all,
    group_of,
    mean_of,
    open_peers,
    outcome_of,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 200_000


def slow(network: SimNetwork) -> None:
    """Slow enough that a round of these vectors takes most of a second."""
    network.default_latency_s = 0.01
    network.default_bytes_per_s = 500_000


async def run_with_fault(
    peers: Sequence[Peer],
    fault: Callable[[], None],
    *,
    at_s: float = 0.3,
    weights: Sequence[float] | None = None,
    deadline_s: float = 20.0,
    elements: int = ELEMENTS,
) -> tuple[list[Outcome], list[np.ndarray], float]:
    """Run a group, let something happen to it; the results, the inputs, and how long it took."""
    vectors = vectors_for(len(peers), elements)
    kept = [vector.copy() for vector in vectors]
    group = group_of([peer.node for peer in peers], elements)
    started_s = trio.current_time()
    results: list[Outcome] = []

    async def run() -> None:
        results.extend(await run_group(peers, group, vectors, weights, deadline_s=deadline_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(at_s)
        fault()
    np.testing.assert_array_equal(vectors, kept)
    return results, vectors, trio.current_time() - started_s


def same_bits(results: Sequence[Outcome]) -> None:
    assert {result.outcome for result in results} == {"success"}
    assert len({result.digest for result in results}) == 1
    assert len({result.vector.tobytes() for result in results if result.vector is not None}) == 1


@simulated
async def test_a_client_that_crashes_is_left_out_of_the_rest(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 4, clients=1) as peers:
        victim = peers[3].peer_id
        results, vectors, _ = await run_with_fault(peers, lambda: network.crash(victim))
    survivors = results[:3]
    same_bits(survivors)
    report = survivors[0].members[victim]
    assert 0 < report.fraction < 1
    assert report.reason == "connection lost"
    assert survivors[0].lost == (victim,)
    assert results[3].outcome == "failed"
    # Each element is the mean of all, or of all but the victim.
    vector = survivors[0].vector
    assert vector is not None
    with_victim = np.isclose(vector, mean_of(vectors), atol=1e-6)
    without = np.isclose(vector, mean_of(vectors[:3]), atol=1e-6)
    assert (with_victim | without).all()
    assert np.mean(with_victim) == pytest.approx(report.fraction, abs=0.01)


def average_without(victim: int, results: Sequence[Outcome], vectors: Sequence[np.ndarray]) -> None:
    """Each element is the mean of all, or of all but the victim, as far as the report says."""
    vector, report = results[0].vector, results[0].members
    assert vector is not None
    others = [values for number, values in enumerate(vectors) if number != victim]
    with_victim = np.isclose(vector, mean_of(vectors), atol=1e-6)
    without = np.isclose(vector, mean_of(others), atol=1e-6)
    assert (with_victim | without).all()
    fractions = sorted(member.fraction for member in report.values())
    assert np.mean(with_victim) == pytest.approx(fractions[0], abs=0.01)
    assert fractions[1:] == [1.0] * len(others)


@simulated
async def test_what_an_aggregator_had_not_finished_is_averaged_by_others(
    network: SimNetwork,
) -> None:
    slow(network)
    async with open_peers(network, 4) as peers:
        victim = peers[1].peer_id
        results, vectors, _ = await run_with_fault(peers, lambda: network.crash(victim))
    survivors = [results[number] for number in (0, 2, 3)]
    same_bits(survivors)
    average_without(1, survivors, vectors)
    for result in survivors:
        assert result.lost == (victim,)
        assert result.plans == 1
        assert result.transfer_seconds + result.agreement_seconds < 3.0
        assert result.repair_seconds > 0


@simulated
async def test_a_frozen_aggregator_is_found_by_its_silence(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 3) as peers:
        victim = peers[2].peer_id
        results, vectors, _ = await run_with_fault(peers, lambda: network.freeze(victim))
        network.thaw(victim)
    same_bits(results[:2])
    average_without(2, results[:2], vectors)
    for result in results[:2]:
        assert result.lost == (victim,)
        assert 2.5 <= result.transfer_seconds < 5.5


@pytest.mark.slow
@simulated
async def test_two_aggregators_may_crash_one_after_the_other(network: SimNetwork) -> None:
    """The second while it averages what the first had left."""
    slow(network)
    async with open_peers(network, 6) as peers:
        first, second = peers[0].peer_id, peers[1].peer_id

        def crash() -> None:
            network.crash(first)

        async with trio.open_nursery() as nursery:

            async def crash_another() -> None:
                await trio.sleep(0.45)
                network.crash(second)

            nursery.start_soon(crash_another)
            results, _, _ = await run_with_fault(peers, crash)
    same_bits(results[2:])
    assert set(results[5].lost) == {first, second}
    assert all(results[5].members[peer.peer_id].fraction == 1 for peer in peers[2:])


@simulated
async def test_a_frozen_client_is_left_out(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 3, clients=1) as peers:
        victim = peers[2].peer_id
        results, _, _ = await run_with_fault(peers, lambda: network.freeze(victim))
        network.thaw(victim)
    same_bits(results[:2])
    assert results[0].members[victim].reason == "silent"
    assert results[0].transfer_seconds < 4


@simulated
async def test_what_somebody_holds_is_passed_on(network: SimNetwork) -> None:
    """Carol is far from bob, who crashes when only alice and dave have got his pieces."""
    slow(network)
    async with open_peers(network, 4) as peers:
        bob, carol = peers[1].peer_id, peers[2].peer_id
        network.default_bytes_per_s = 5_000_000
        network.set_link(bob, carol, latency_s=0.4)
        results, vectors, _ = await run_with_fault(peers, lambda: network.crash(bob), at_s=0.65)
    same_bits([results[0], results[2], results[3]])
    vector = results[0].vector
    assert vector is not None
    np.testing.assert_allclose(vector, mean_of(vectors), atol=1e-6)


@simulated
async def test_a_broken_connection_is_worked_around(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 3) as peers:
        one, other = peers[0].peer_id, peers[1].peer_id
        results, _, _ = await run_with_fault(peers, lambda: network.drop_connection(one, other))
    same_bits(results)
    assert results[0].members[one].reason == "connection lost"
    assert results[0].members[other].reason == "connection lost"
    assert results[0].members[peers[2].peer_id].fraction == 1


@simulated
async def test_of_two_halves_the_first_succeeds_and_the_other_waits(
    network: SimNetwork,
) -> None:
    slow(network)
    async with open_peers(network, 4) as peers:
        order = group_of([peer.node for peer in peers], ELEMENTS).peer_ids
        halves = order[:2], order[2:]
        results, _, seconds = await run_with_fault(
            peers, lambda: network.partition(*halves), deadline_s=8
        )
    for peer, result in zip(peers, results, strict=True):
        first = peer.peer_id in halves[0]
        assert result.outcome == ("success" if first else "failed")
        assert set(result.lost) == set(halves[first])
        assert first or not result.certain
    assert seconds == pytest.approx(8, abs=0.1)


async def run_and_cancel(
    network: SimNetwork, count: int, *, at_s: float
) -> tuple[list[Outcome], list[np.ndarray], Peer]:
    """Cancel the last member's run; the others' results, the inputs, and who was cancelled."""
    vectors = vectors_for(count, ELEMENTS)
    async with open_peers(network, count) as peers:
        group = group_of([peer.node for peer in peers], ELEMENTS)
        results: list[Outcome] = []
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def others() -> None:
                results.extend(await run_group(peers[:-1], group, vectors))

            async def cancelled() -> None:
                with scope:
                    await run_group(peers[-1:], group, vectors[-1:])

            nursery.start_soon(others)
            nursery.start_soon(cancelled)
            await trio.sleep(at_s)
            scope.cancel()
        assert scope.cancelled_caught
        # The one that was cancelled can take part in the next group.
        again = group_of([peer.node for peer in peers], ELEMENTS, seed=1)
        same_bits(await run_group(peers, again, vectors))
    return results, vectors, peers[-1]


@simulated
async def test_a_cancelled_aggregator_is_lost_and_nobody_waits_for_it(network: SimNetwork) -> None:
    slow(network)
    results, vectors, cancelled = await run_and_cancel(network, 4, at_s=0.3)
    same_bits(results)
    average_without(3, results, vectors)
    for result in results:
        assert result.lost == (cancelled.peer_id,)
        assert result.transfer_seconds < 2


@simulated
async def test_a_late_cancellation_harms_nobody(network: SimNetwork) -> None:
    """All pieces are out when the vote is cut off: the others are a quorum."""
    network.default_latency_s = 0.1
    results, vectors, _ = await run_and_cancel(network, 3, at_s=0.25)
    same_bits(results)
    vector = results[0].vector
    assert vector is not None
    np.testing.assert_allclose(vector, mean_of(vectors), atol=1e-6)


@simulated
async def test_a_slow_link_is_not_a_silent_one(network: SimNetwork) -> None:
    """A chunk takes longer than the silence that would be suspicious."""
    async with open_peers(network, 3, clients=1) as peers:
        for aggregator in peers[:2]:
            network.set_link(aggregator.peer_id, peers[2].peer_id, bytes_per_s=10_000)
        vectors = vectors_for(3, 60_000)
        nodes = [peer.node for peer in peers]
        group = group_of(nodes, 60_000, chunk_elements=30_000, deadline_s=60)
        results = await run_group(peers, group, vectors, deadline_s=60)
    same_bits(results)
    assert results[0].transfer_seconds > 11
    assert all(member.fraction == 1 for member in results[0].members.values())


@simulated
async def test_a_member_that_begins_late_takes_part(network: SimNetwork) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        group = group_of([peer.node for peer in peers], ELEMENTS)
        results: list[Outcome] = []

        async def late() -> None:
            await trio.sleep(2)
            results.extend(await run_group(peers[:1], group, vectors[:1]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            results.extend(await run_group(peers[1:], group, vectors[1:]))
    same_bits(results)
    assert all(member.fraction == 1 for member in results[0].members.values())


@simulated
async def test_a_member_that_never_begins_is_done_without(network: SimNetwork) -> None:
    """It is there and answers that it knows no such group; its pieces go to the others."""
    async with open_peers(network, 3) as peers:
        group = group_of([peer.node for peer in peers], ELEMENTS)
        vectors = vectors_for(2, ELEMENTS)
        results = await run_group(peers[1:], group, vectors)
    same_bits(results)
    for result in results:
        assert result.members[peers[0].peer_id].fraction == 0
        assert result.transfer_seconds < 8
    assert results[0].vector is not None
    np.testing.assert_allclose(results[0].vector, mean_of(vectors), atol=1e-6)


@simulated
async def test_leaving_right_after_success_keeps_nothing_from_others(network: SimNetwork) -> None:
    """Who leaves first may be the one who collects the votes."""
    network.default_latency_s = 0.05
    results: list[Outcome] = []
    async with trio.open_nursery() as nursery, open_peers(network, 0):
        nodes = [
            await nursery.start(keep_open, network, name) for name in ("alice", "bob", "carol")
        ]
        await connect_all(nodes)
        group = group_of(nodes, 1000)

        async def once(node: Node, vector: np.ndarray) -> None:
            async with open_allreduce(node, "test") as allreduce:
                until_s = trio.current_time() + 10
                results.append(await outcome_of(allreduce, group, vector, 1.0, until_s))

        async with trio.open_nursery() as runs:
            for node, vector in zip(nodes, vectors_for(3, 1000), strict=True):
                runs.start_soon(once, node, vector)
        nursery.cancel_scope.cancel()
    same_bits(results)


async def keep_open(network: SimNetwork, name: str, task_status: trio.TaskStatus[Node]) -> None:
    async with network.open_node(name) as node:
        task_status.started(node)
        await trio.sleep_forever()


@simulated
async def test_a_group_that_a_peer_was_not_told_of_is_shown_to_it(network: SimNetwork) -> None:
    """As when the leader crashes while it tells its followers."""
    async with open_peers(network, 3) as peers, network.open_node("dave") as dave:
        await connect_all([*(peer.node for peer in peers), dave])
        group = group_of([*(peer.node for peer in peers), dave], 1000)
        shown, told = trio.open_memory_channel[bytes](1)
        vectors = vectors_for(4, 1000)
        results: list[Outcome] = []
        async with (
            open_allreduce(dave, "test", on_group_shown=shown.send) as allreduce,
            trio.open_nursery() as nursery,
        ):

            async def run_others() -> None:
                results.extend(await run_group(peers, group, vectors))

            nursery.start_soon(run_others)
            body = await told.receive()
            assert parse_group_untrusted(body) == group
            until_s = trio.current_time() + 10
            results.append(await outcome_of(allreduce, group, vectors[3], 1.0, until_s))
        assert trio.current_time() < 2
    same_bits(results)
    assert all(member.fraction == 1 for member in results[0].members.values())
