"""All-reduce when members crash, freeze, part, lie or leave: the same bits, or nothing, in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import trio

from averaging.allreduce.result import RoundResult
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Peer,
    group_of,
    mean_of,
    open_peers,
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
) -> tuple[list[RoundResult], list[np.ndarray], float]:
    """Run a group, let something happen to it; the results, the inputs, and how long it took."""
    vectors = vectors_for(len(peers), elements)
    kept = [vector.copy() for vector in vectors]
    group = group_of([peer.node for peer in peers], elements)
    started_s = trio.current_time()
    results: list[RoundResult] = []

    async def run() -> None:
        results.extend(await run_group(peers, group, vectors, weights, deadline_s=deadline_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(at_s)
        fault()
    np.testing.assert_array_equal(vectors, kept)
    return results, vectors, trio.current_time() - started_s


def same_bits(results: Sequence[RoundResult]) -> None:
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


@simulated
async def test_an_aggregator_that_crashes_fails_the_group_for_certain(network: SimNetwork) -> None:
    seconds: dict[int, float] = {}
    slow(network)
    async with open_peers(network, 4) as peers:
        victim = peers[1].peer_id
        results, _, _ = await run_with_fault(peers, lambda: network.crash(victim))
    for number in (0, 2, 3):
        assert results[number].outcome == "failed"
        assert results[number].certain
        assert results[number].lost == (victim,)
        assert results[number].members[victim].reason == "lost"
        seconds[number] = results[number].transfer_seconds + results[number].agreement_seconds
    assert max(seconds.values()) < 1.0


@simulated
async def test_a_frozen_aggregator_is_found_by_its_silence(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 3) as peers:
        victim = peers[2].peer_id
        results, _, _ = await run_with_fault(peers, lambda: network.freeze(victim))
        network.thaw(victim)
    for result in results[:2]:
        assert (result.outcome, result.certain) == ("failed", True)
        assert result.lost == (victim,)
        assert 2.5 <= result.transfer_seconds < 4.5


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
async def test_a_span_that_somebody_holds_is_passed_on(network: SimNetwork) -> None:
    """Carol is far from bob, who crashes when only alice and dave have got his span."""
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
async def test_of_two_halves_the_first_fails_for_certain_and_the_other_waits(
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
        assert (result.outcome, result.certain) == ("failed", first)
        assert set(result.lost) == set(halves[first])
    assert seconds == pytest.approx(8, abs=0.1)
