"""Secure rounds under random faults: the same bits for all who succeed, nothing for the others.

Each seed is one schedule: links of one speed, then up to two faults at random moments. A node
crashes or freezes, a connection between two breaks, or the network parts for a while.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio

from averaging import RoundFailed, RoundReport, SecureAverager
from p2p.testing import SimNetwork, run_sim
from tests.averaging.secure.test_averager import TOLERANCE, Peers, open_peers

DEADLINE_S = 15.0
SLACK_S = 1.0
QUICK, ALL, BATCH = 10, 110, 20
SOAK_FROM = 50


async def faults(network: SimNetwork, peers: Peers, rng: random.Random, dead: set[int]) -> None:
    for _ in range(rng.randint(1, 2)):
        await trio.sleep(rng.uniform(0.05, 0.8))
        victim, other = rng.sample(range(len(peers.nodes)), 2)
        kind = rng.choice(["crash", "freeze", "drop", "part"])
        if kind == "part":
            ids = [node.peer_id for node in peers.nodes]
            rng.shuffle(ids)
            network.partition(ids[: len(ids) // 3 + 1], ids[len(ids) // 3 + 1 :])
            await trio.sleep(rng.uniform(0.1, 5.0))
            network.heal()
        elif kind == "drop":
            network.drop_connection(peers.nodes[victim].peer_id, peers.nodes[other].peer_id)
        else:
            dead.add(victim)
            getattr(network, kind)(peers.nodes[victim].peer_id)


async def run_schedule(network: SimNetwork, seed: int) -> set[str]:
    """One round of one schedule; returns the outcomes of those who live."""
    rng = random.Random(seed)
    dead: set[int] = set()
    seconds: dict[int, float] = {}
    async with AsyncExitStack() as stack:
        count = rng.randint(3, 6)
        peers = await open_peers(
            stack, network, count, elements=20_000, clients=rng.choice([0, 0, 1])
        )
        network.default_latency_s = rng.choice([0.001, 0.02])
        network.default_bytes_per_s = rng.choice([100_000, 400_000])
        everyone = [node.peer_id for node in peers.nodes]

        async def step(number: int, averager: SecureAverager) -> None:
            began_s = trio.current_time()
            try:
                peers.outcomes[number] = await averager.step(
                    peers.tensors[number],
                    weight=peers.weights[number],
                    deadline_s=DEADLINE_S,
                    expected=everyone,
                )
            except RoundFailed as failed:
                peers.outcomes[number] = failed.report
            seconds[number] = trio.current_time() - began_s

        async def befall() -> None:
            await faults(network, peers, rng, dead)

        await peers.run(step=step, during=befall)
        # A node that died may fail as it likes.
        assert [error for error in network.handler_errors if not dead] == []
    check_outcomes(peers)
    assert all(seconds[number] <= DEADLINE_S + SLACK_S for number in seconds if number not in dead)
    return {report.outcome for number, report in peers.outcomes.items() if number not in dead}


def check_outcomes(peers: Peers) -> None:
    """Whoever succeeds has the mean of those in it; the others have what they had."""
    by_group: dict[bytes, list[int]] = {}
    for number, report in peers.outcomes.items():
        if report.succeeded:
            by_group.setdefault(report.group_id, []).append(number)
        else:
            np.testing.assert_array_equal(peers.tensors[number]["w"], peers.vectors[number])
    # Over two thirds of a group are needed, so one round has one result.
    assert len({peers.outcomes[numbers[0]].digest for numbers in by_group.values()}) <= 1
    for numbers in by_group.values():
        inside = included(peers, peers.outcomes[numbers[0]])
        assert len(inside) >= 3
        weights = [peers.weights[number] for number in inside]
        mean = np.average([peers.vectors[number] for number in inside], axis=0, weights=weights)
        for number in numbers:
            assert included(peers, peers.outcomes[number]) == inside
            np.testing.assert_allclose(peers.tensors[number]["w"], mean, atol=TOLERANCE)
        assert len({peers.tensors[number]["w"].tobytes() for number in numbers}) == 1


def included(peers: Peers, report: RoundReport) -> list[int]:
    numbers = {node.peer_id: number for number, node in enumerate(peers.nodes)}
    return sorted(numbers[peer] for peer, member in report.members.items() if member.fraction)


def run_schedules(seeds: range) -> set[str]:
    outcomes: set[str] = set()

    for seed in seeds:

        async def main(network: SimNetwork, seed: int = seed) -> None:
            outcomes.update(await run_schedule(network, seed))

        run_sim(seed, main)
    return outcomes


@pytest.mark.slow
def test_schedules() -> None:
    assert "success" in run_schedules(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.soak if first >= SOAK_FROM else ())
        for first in range(QUICK, ALL, BATCH)
    ],
)
def test_many_schedules(first: int) -> None:
    assert run_schedules(range(first, first + BATCH)) >= {"success", "failed"}
