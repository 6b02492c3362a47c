"""Auxiliary members: they average for the others, and neither change the mean nor vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import trio

from averaging.allreduce.result import RoundResult
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
    Peer,
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 60_000


async def run_with_aux(
    peers: Sequence[Peer],
    aux: Sequence[int],
    *,
    fault: Callable[[], None] = lambda: None,
    at_s: float = 0.3,
    weights: Sequence[float] | None = None,
    deadline_s: float = 20.0,
) -> tuple[list[RoundResult], list[Array]]:
    """Run a group in which these peers are auxiliary; the results, and the others' vectors."""
    vectors = vectors_for(len(peers), ELEMENTS)
    group = group_of(
        [peer.node for peer in peers], ELEMENTS, auxiliary=[peers[n].peer_id for n in aux]
    )
    results: list[RoundResult] = []

    async def run() -> None:
        own = [None if number in aux else vector for number, vector in enumerate(vectors)]
        results.extend(await run_group(peers, group, own, weights, deadline_s=deadline_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(at_s)
        fault()
    return results, [vector for number, vector in enumerate(vectors) if number not in aux]


def check_agreed(results: Sequence[RoundResult]) -> Array:
    """The bits that all members with a vector hold."""
    for result in results:
        assert result.outcome == "success", result.reason
    assert len({result.digest for result in results}) == 1
    held = [result.vector for result in results if result.vector is not None]
    assert len({vector.tobytes() for vector in held}) == 1
    return held[0]


def slow(network: SimNetwork) -> None:
    """Slow enough that a round takes most of a second."""
    network.default_latency_s = 0.01
    network.default_bytes_per_s = 200_000


@pytest.mark.parametrize("aux", [(0,), (1,), (3, 4), (0, 1, 2)])
@simulated
async def test_the_mean_does_not_change(network: SimNetwork, aux: tuple[int, ...]) -> None:
    """Wherever in the group they are; the leader may be one, too."""
    async with open_peers(network, 5) as peers:
        weights = [1.0, 2.0, 0.5, 3.0, 7.0]
        started_s = trio.current_time()
        results, vectors = await run_with_aux(peers, aux, weights=weights, at_s=0)
        # They hear of the outcome soon after the others do.
        assert trio.current_time() - started_s < 0.5
    contributing = [number for number in range(5) if number not in aux]
    agreed = check_agreed(results)
    expected = mean_of(vectors, [weights[number] for number in contributing])
    np.testing.assert_allclose(agreed, expected, atol=1e-6)
    for number, result in enumerate(results):
        assert (result.vector is None) == (number in aux)
        assert result.lost == ()
        for other, peer in enumerate(peers):
            report = result.members[peer.peer_id]
            if other in aux:
                assert (report.weight, report.fraction, report.reason) == (0.0, 0.0, "auxiliary")
            else:
                assert (report.fraction, report.reason) == (1.0, "")
                # One that averaged nothing was not told the weights.
                told = number not in aux or result.received_bytes
                assert report.weight == (weights[other] if told else 0.0)


@simulated
async def test_an_aux_averages_a_span_and_gets_none_of_the_others(network: SimNetwork) -> None:
    async with open_peers(network, 4) as peers:
        results, _ = await run_with_aux(peers, (3,))
    check_agreed(results)
    helper = results[3]
    received, sent = sum(helper.received_bytes.values()), sum(helper.sent_bytes.values())
    assert received > 0
    # Three members' parts come in, and go out as the same mean for each.
    assert received == sent
    assert all(sum(result.received_bytes.values()) > received / 3 for result in results[:3])


@simulated
async def test_an_aux_that_is_given_nothing_to_average_succeeds_too(network: SimNetwork) -> None:
    """Two members exchange all they have, whoever averages it, so a third cannot help them."""
    async with open_peers(network, 3) as peers:
        started_s = trio.current_time()
        results, vectors = await run_with_aux(peers, (2,), at_s=0)
        assert trio.current_time() - started_s < 0.5
    np.testing.assert_allclose(check_agreed(results), mean_of(vectors), atol=1e-6)
    assert sum(results[2].received_bytes.values()) == 0


@simulated
async def test_all_that_can_be_dialed_may_be_auxiliary(network: SimNetwork) -> None:
    """Members behind firewalls, and servers that have nothing to train with."""
    async with open_peers(network, 5, clients=3) as peers:
        results, vectors = await run_with_aux(peers, (0, 1))
    np.testing.assert_allclose(check_agreed(results), mean_of(vectors), atol=1e-6)
    assert [result.vector is None for result in results] == [True, True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("clients", [0, 3])
@pytest.mark.parametrize("how", ["crash", "freeze"])
@simulated
async def test_one_of_two_is_lost_in_the_middle(
    network: SimNetwork, clients: int, how: str
) -> None:
    """The other one, and whoever else can, averages what it had not finished."""
    slow(network)
    async with open_peers(network, 5, clients=clients) as peers:
        victim = peers[1].peer_id
        fault = network.crash if how == "crash" else network.freeze
        results, vectors = await run_with_aux(peers, (0, 1), fault=lambda: fault(victim))
        network.thaw(victim)
    survivors = [results[0], *results[2:]]
    np.testing.assert_allclose(check_agreed(survivors), mean_of(vectors), atol=1e-6)
    for result in survivors[1:]:
        assert result.lost == (victim,)
        assert result.plans == 1
        assert all(result.members[peer.peer_id].fraction == 1 for peer in peers[2:])
        assert result.members[victim].reason in ("auxiliary", "lost")


@simulated
async def test_without_all_that_can_average_it_fails_in_time(network: SimNetwork) -> None:
    """Clients cannot dial each other: there is nobody left to give the work to."""
    slow(network)
    async with open_peers(network, 4, clients=3) as peers:
        results, _ = await run_with_aux(
            peers, (0,), fault=lambda: network.crash(peers[0].peer_id), deadline_s=8
        )
    for result in results[1:]:
        assert result.outcome == "failed"
        assert result.vector is None
        assert result.lost == (peers[0].peer_id,)


@simulated
async def test_votes_of_auxiliary_members_are_not_needed(network: SimNetwork) -> None:
    """Three voters are a quorum, though half of all members never answer again."""
    slow(network)
    async with open_peers(network, 6) as peers:

        def crash() -> None:
            for number in (0, 1, 2):
                network.crash(peers[number].peer_id)

        results, vectors = await run_with_aux(peers, (0, 1, 2), fault=crash)
    np.testing.assert_allclose(check_agreed(results[3:]), mean_of(vectors), atol=1e-6)
    assert set(results[3].lost) == {peers[number].peer_id for number in (0, 1, 2)}


@simulated
async def test_a_voter_is_lost_and_the_aux_stays(network: SimNetwork) -> None:
    slow(network)
    async with open_peers(network, 4) as peers:
        victim = peers[2].peer_id
        results, vectors = await run_with_aux(peers, (0,), fault=lambda: network.crash(victim))
    agreed = check_agreed([results[0], results[1], results[3]])
    with_victim = np.isclose(agreed, mean_of(vectors), atol=1e-6)
    without = np.isclose(agreed, mean_of([vectors[0], vectors[2]]), atol=1e-6)
    assert (with_victim | without).all()
    report = results[1].members[victim]
    assert np.mean(with_victim) == pytest.approx(report.fraction, abs=0.01)
