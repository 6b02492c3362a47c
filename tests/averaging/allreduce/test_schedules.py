"""One group under random faults, hundreds of seeds: the outcome contract without matchmaking."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import trio

from averaging.matchmaking.group import Group
from p2p import PeerId
from p2p.testing import SimNetwork, run_sim
from tests.averaging.allreduce.peers import (
    Array,
    Outcome,
    Peer,
    fractions_of,
    group_of,
    open_peers,
    run_group,
    vectors_for,
)

ELEMENTS = 20_000
CHUNK_ELEMENTS = 800
DEADLINE_S = 12.0
SLACK_S = 0.1


@dataclass
class Part:
    """What came of one member's run; None as its result means that it was cancelled."""

    vector: Array
    weight: float
    result: Outcome | None = None
    seconds: float = 0.0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Schedule:
    """A seeded run of one group with faults."""

    def __init__(self, seed: int, network: SimNetwork, *, faults_max: int, crash: bool) -> None:
        self.rng = random.Random(seed)
        self.network = network
        self.faults_max = faults_max
        self.crash = crash
        self.peers: list[Peer] = []
        self.outcomes: list[Part] = []
        self.auxiliary: list[PeerId] = []
        self.victim: PeerId | None = None

    async def run(self) -> None:
        rng, network = self.rng, self.network
        count = rng.randint(3 if self.crash else 2, 6)
        clients = rng.choice([0, 0, 1, 2]) if count > 3 else 0
        network.default_latency_s = rng.choice([0.001, 0.02])
        network.jitter = 0.5
        bytes_per_s = rng.choice([5e4, 2e5])
        async with open_peers(network, count, clients=clients) as self.peers:
            network.default_bytes_per_s = bytes_per_s
            for one in self.peers:
                for other in self.peers:
                    if rng.random() < 0.15:
                        network.set_link(one.peer_id, other.peer_id, bytes_per_s=bytes_per_s / 3)
            weights = [rng.choice([1.0, 1.0, 1.0, 2.5, 0.0]) for _ in self.peers]
            if self.crash or rng.random() < 0.9:
                weights = [weight or 1.0 for weight in weights]
            if count > 3 and rng.random() < 0.3:
                # Of those that can be dialed; enough voters are left to lose one.
                number = rng.randrange(count - clients)
                weights[number] = 0.0
                self.auxiliary = [self.peers[number].peer_id]
            vectors = vectors_for(count, ELEMENTS, seed=rng.getrandbits(30))
            self.outcomes = [Part(*pair) for pair in zip(vectors, weights, strict=True)]
            kept = [vector.copy() for vector in vectors]
            group = group_of(
                [peer.node for peer in self.peers],
                ELEMENTS,
                chunk_elements=CHUNK_ELEMENTS,
                seed=rng.getrandbits(30),
                auxiliary=self.auxiliary,
            )
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(self._run_member, number, group)
                # Up and down overlap, so a round takes a little longer than one way.
                transfer_s = 4 * ELEMENTS / count / bytes_per_s
                nursery.start_soon(self._inflict, transfer_s)
            network.heal()
            for peer in self.peers:
                network.thaw(peer.peer_id)
            np.testing.assert_array_equal(vectors, kept)

    async def _run_member(self, number: int, group: Group) -> None:
        outcome, peer = self.outcomes[number], self.peers[number]
        if not self.crash and self.rng.random() < 0.1:
            await trio.sleep(self.rng.random())
        started_s = trio.current_time()
        with outcome.scope:
            vector = None if peer.peer_id in self.auxiliary else outcome.vector
            (outcome.result,) = await run_group(
                [peer], group, [vector], [outcome.weight], deadline_s=DEADLINE_S
            )
        outcome.seconds = trio.current_time() - started_s

    async def _inflict(self, transfer_s: float) -> None:
        rng = self.rng
        if self.crash:
            nodes = [peer for peer in self.peers if not peer.node.client_mode]
            victims = self.peers if len(nodes) > 1 else self.peers[len(nodes) :]
            await trio.sleep(rng.random() * (1.5 * transfer_s + 0.2))
            self.victim = rng.choice(victims).peer_id
            self.network.crash(self.victim)
            return
        for _ in range(rng.randint(1, self.faults_max)):
            await trio.sleep(rng.random() * rng.choice([0.05, 1.5 * transfer_s, 3.0]))
            self._one_fault()

    def _one_fault(self) -> None:
        rng, network = self.rng, self.network
        ids = [peer.peer_id for peer in self.peers]
        one, other = rng.sample(ids, 2)
        match rng.randrange(9):
            case 0 | 1:
                network.crash(one)
            case 2:
                network.freeze(one)
            case 3:
                network.thaw(one)
            case 4 | 5:
                network.drop_connection(one, other)
            case 6:
                rng.shuffle(ids)
                network.partition(ids[: rng.randint(1, len(ids) - 1)])
            case 7:
                network.heal()
            case 8:
                rng.choice(self.outcomes).scope.cancel()

    def check(self) -> None:
        results = [outcome.result for outcome in self.outcomes if outcome.result is not None]
        winners = [result for result in results if result.outcome == "success"]
        assert len({winner.digest for winner in winners}) <= 1
        assert len({w.vector.tobytes() for w in winners if w.vector is not None}) <= 1
        for outcome in self.outcomes:
            assert outcome.seconds <= DEADLINE_S + SLACK_S
            result = outcome.result
            if result is not None and result.outcome != "success":
                assert result.vector is None
                assert result.reason
                if result.certain:
                    assert not winners, "a failure that was certain was none"
        assert all(
            (outcome.result.vector is None) == (peer.peer_id in self.auxiliary)
            for peer, outcome in zip(self.peers, self.outcomes, strict=True)
            if outcome.result is not None and outcome.result.outcome == "success"
        )
        for winner in [winner for winner in winners if winner.vector is not None][:1]:
            self._check_mean(winner)
        if self.victim is not None:
            self._check_survivors()
        assert self.network.handler_errors == []

    def _check_mean(self, winner: Outcome) -> None:
        assert winner.vector is not None
        fractions = fractions_of(
            winner.vector,
            [outcome.vector for outcome in self.outcomes],
            [outcome.weight for outcome in self.outcomes],
        )
        for peer, fraction in zip(self.peers, fractions, strict=True):
            assert winner.members[peer.peer_id].fraction == pytest.approx(fraction, abs=1e-3)

    def _check_survivors(self) -> None:
        """After one crash of at least three all others succeed, and say who is lost."""
        survivors = [
            outcome.result
            for peer, outcome in zip(self.peers, self.outcomes, strict=True)
            if peer.peer_id != self.victim and outcome.result is not None
        ]
        for result in survivors:
            assert result.outcome == "success", result.reason
            assert result.lost in ((), (self.victim,))


def run_schedule(seed: int, *, faults_max: int = 4, crash: bool = False) -> Schedule:
    """Run one schedule to its end and check it."""

    async def main(network: SimNetwork) -> Schedule:
        schedule = Schedule(seed, network, faults_max=faults_max, crash=crash)
        await schedule.run()
        return schedule

    schedule = run_sim(seed, main)
    try:
        schedule.check()
    except AssertionError as exc:
        exc.add_note(f"in the schedule with seed {seed}")
        raise
    return schedule


def seeds(count: int) -> list[object]:
    """The first seed of each handful: the first is quick, and the second half left to a soak."""
    slow, soak = pytest.mark.slow, (pytest.mark.slow, pytest.mark.soak)
    return [
        0,
        *(pytest.param(seed, marks=slow) for seed in range(5, count // 2, 5)),
        *(pytest.param(seed, marks=soak) for seed in range(count // 2, count, 5)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", seeds(40))
def test_no_schedule_breaks_the_outcome_contract(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 5):
        run_schedule(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", seeds(20))
def test_after_one_crash_the_survivors_agree(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 5):
        run_schedule(seed, crash=True)
