"""Simulated swarms that average now and then: equal bits, lost peers, latecomers, failed rounds."""

from __future__ import annotations

import pytest
import trio
from _pytest.mark.structures import ParameterSet

from averaging import AveragerConfig
from p2p.testing import SimNetwork, run_sim
from tests.training.strategies.sim_local import SimLocal, local_swarm, open_local, train
from training.config import SwarmConfig
from training.errors import SpecDiffers
from training.strategies import (
    DiLoCo,
    ElasticAveraging,
    FederatedAveraging,
    FedProx,
    LocalSGD,
    Scaffold,
    Strategy,
    StreamingDiLoCo,
)

EVERY = 6
ANCHORED = (LocalSGD(every=EVERY), DiLoCo(every=EVERY), FederatedAveraging(every=EVERY))
ELASTIC, STREAMING = ElasticAveraging(every=EVERY), StreamingDiLoCo(every=EVERY, fragments=3)
FEDPROX, SCAFFOLD = FedProx(every=EVERY), Scaffold(every=EVERY)
STRATEGIES = (*ANCHORED, ELASTIC, STREAMING, FEDPROX, SCAFFOLD)


def some_slow(first: Strategy, *others: Strategy) -> list[ParameterSet]:
    """The first in each run of the tests, the others in all of them."""
    return [
        pytest.param(first, id=type(first).__name__),
        *(pytest.param(one, id=type(one).__name__, marks=pytest.mark.slow) for one in others),
    ]


def assert_same_at_each_position(trainers: list[SimLocal]) -> None:
    """Whoever was at the same position held the same bits."""
    hashes: dict[object, str] = {}
    for trainer in trainers:
        for round_id, state_hash in trainer.held.items():
            assert hashes.setdefault(round_id, state_hash) == state_hash, trainer.name


@pytest.mark.parametrize("strategy", some_slow(*STRATEGIES))
def test_after_an_exchange_all_hold_the_same_bits(strategy: Strategy) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.002
        async with local_swarm(network, strategy, (0.05, 0.07, 0.04)) as trainers:
            await train(trainers, 5)
            for trainer in trainers:
                assert trainer.failures == []
                assert trainer.caught_up == []
                assert trainer.members == [3] * 5
            assert_same_at_each_position(trainers)
            equal = len({trainer.parameters[5] for trainer in trainers}) == 1
            assert equal == (strategy not in (ELASTIC, STREAMING))

    run_sim(1, main)


@pytest.mark.slow
def test_a_fast_peer_takes_more_steps_and_waits_for_nobody() -> None:
    async def main(network: SimNetwork) -> None:
        async with local_swarm(network, LocalSGD(every=10), (0.02, 0.02, 0.08)) as trainers:
            await train(trainers, 6)
            fast, _, slow = (trainer.local_steps for trainer in trainers)
            assert 2.5 * slow < fast
            total = sum(trainer.local_steps for trainer in trainers)
            assert 6 * 30 <= total <= 6 * 30 * 1.2, "ten for each peer, on average"

    run_sim(2, main)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "codec"),
    [
        (ANCHORED[1], None),
        (ANCHORED[2], None),
        (SCAFFOLD, None),
        (ANCHORED[1], "int8-block"),
        (ANCHORED[1], "topk:0.2"),
    ],
)
def test_a_crashed_peer_stops_nobody(strategy: Strategy, codec: str | None) -> None:
    config = SwarmConfig(averager=AveragerConfig(codec=codec, codec_elements_min=1))

    async def main(network: SimNetwork) -> None:
        computing = (0.05, 0.06, 0.07, 0.05)
        async with local_swarm(network, strategy, computing, config=config) as trainers:
            victim, *survivors = trainers

            async def crash() -> None:
                await trio.sleep(0.5 + network.rng.random())
                network.crash(victim.node.peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                nursery.start_soon(victim.train, 10**9)
                with trio.fail_after(60):
                    await train(survivors, 12)
                nursery.cancel_scope.cancel()
            for trainer in survivors:
                assert trainer.members[-1] == 3
            assert len({trainer.parameters[12] for trainer in survivors}) == 1
            assert_same_at_each_position(survivors)

    run_sim(3, main)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", some_slow(ANCHORED[1], ELASTIC, STREAMING, SCAFFOLD))
def test_a_latecomer_downloads_what_all_share(strategy: Strategy) -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            local_swarm(network, strategy, (0.05, 0.06)) as trainers,
            trio.open_nursery() as nursery,
        ):
            for trainer in trainers:
                nursery.start_soon(trainer.train, 10**9)
            await trio.sleep(3)
            initial = trainers[0].node.addresses
            # Other first parameters, frozen ones too.
            async with open_local(network, "late", strategy, initial_peers=initial, seed=9) as late:
                with trio.fail_after(60):
                    await late.step()
                    assert len(late.caught_up) == 1
                    await late.train(late.caught_up[0] + 5)
                assert late.members[-1] == 3
                assert late.model[1].bias.tolist() == trainers[0].model[1].bias.tolist()
            nursery.cancel_scope.cancel()
        shared = [r for r in late.held if r in trainers[0].held]
        assert len(shared) >= 5
        assert_same_at_each_position([*trainers, late])

    run_sim(4, main)


def test_a_failed_exchange_is_skipped_and_loses_nothing() -> None:
    async def main(network: SimNetwork) -> None:
        config = SwarmConfig(averager=AveragerConfig(group_size_min=2), round_deadline_s=0.5)
        strategy = LocalSGD(every=4)
        async with open_local(network, "alice", strategy, config=config) as alice:
            for _ in range(10):
                alice.local_step()
                await alice.step()
            assert len(alice.failures) == 2, "after four steps, and after four more"
            assert alice.replica.position.step == 0
            initial = alice.node.addresses
            async with open_local(
                network, "bob", strategy, initial_peers=initial, config=config
            ) as bob:
                await train([alice, bob], 1)
                _, weight = alice.replica.offer()
                assert weight == 0
            assert alice.local_steps > bob.local_steps
            assert alice.parameters[1] == bob.parameters[1]
            assert alice.replica.position.samples == 8 * (alice.local_steps + bob.local_steps)

    run_sim(5, main)


def test_another_strategy_is_another_spec() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_local(network, "alice", DiLoCo(every=4)) as alice:
            await alice.train(2)
            initial = alice.node.addresses
            with pytest.raises(SpecDiffers):
                async with open_local(network, "bob", DiLoCo(every=5), initial_peers=initial):
                    pass

    run_sim(6, main)
