"""Simulated swarms with secure sums: latecomers, and offers that were spent in vain."""

from __future__ import annotations

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.strategies.sim_local import SimLocal, local_swarm, open_local, train
from training.config import SwarmConfig
from training.privacy import NoiseShares, PrivateClients
from training.strategies import DiLoCo, FederatedAveraging, LocalSGD, SecureExchange, Strategy

SECURE = SecureExchange(samples_max=1024)
CONFIG = SwarmConfig(round_deadline_s=6.0)
EVERY = 6


def parameters_of(trainer: SimLocal) -> bytes:
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return b"".join(tensor.numpy().tobytes() for tensor in floats)


async def spend_in_vain(network: SimNetwork, trainers: list[SimLocal]) -> list[SimLocal]:
    """Of three, all of whom a sum needs, one is lost when all have sent masked elements.

    Returns:
        The other two, who have tried for as long as they may.
    """
    *rest, victim = trainers

    def spent(trainer: SimLocal) -> bool:
        sessions = trainer.session.averager._secure._sessions.values()  # type: ignore[union-attr]
        return any(session.member.spent for session in sessions)

    async def lose_the_victim() -> None:
        while not all(spent(trainer) for trainer in trainers):  # noqa: ASYNC110
            await trio.sleep(0.001)
        network.crash(victim.node.peer_id)
        victim_trains.cancel()

    async def train_until_it_fails(trainer: SimLocal) -> None:
        while not trainer.failures:
            await trio.sleep(trainer.compute_s)
            trainer.local_step()
            await trainer.step()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_the_victim)
            for trainer in rest:
                nursery.start_soon(train_until_it_fails, trainer)
            with trio.CancelScope() as victim_trains:
                await victim.train(10**9)
    return rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [FederatedAveraging(every=EVERY, fraction=1.0), DiLoCo(every=EVERY)]
)
def test_what_was_spent_in_vain_is_dropped(strategy: Strategy) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.05
        async with local_swarm(
            network, strategy, (0.05, 0.05, 0.05), config=CONFIG, secure=SECURE
        ) as trainers:
            begin = parameters_of(trainers[0])
            rest = await spend_in_vain(network, trainers)
            for trainer in rest:
                assert "the vector is spent" in trainer.failures[0]
                assert trainer.dropped == 1
                assert parameters_of(trainer) == begin, "what all have in common"
                _, weight = trainer.replica.offer()
                assert (trainer.replica.steps, weight) == (0, 0)
            # With a third they go on, with new steps.
            async with open_local(
                network,
                "new",
                strategy,
                initial_peers=rest[0].node.addresses,
                config=CONFIG,
                secure=SECURE,
            ) as new:
                with trio.fail_after(120):
                    await train([*rest, new], 2)
                assert len({trainer.parameters[2] for trainer in (*rest, new)}) == 1

    run_sim(1, main)


def test_with_noise_of_its_own_each_offer_may_hold_the_same_steps() -> None:
    strategy = PrivateClients(
        strategy=LocalSGD(every=EVERY),
        clip=1.0,
        noise_multiplier=1.0,
        epsilon=100.0,
        shares=NoiseShares(peers=3),
    )

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.05
        async with local_swarm(
            network, strategy, (0.05, 0.05, 0.05), config=CONFIG, secure=SECURE
        ) as trainers:
            begin = parameters_of(trainers[0])
            for trainer in await spend_in_vain(network, trainers):
                assert "the vector is spent" in trainer.failures[0]
                assert trainer.dropped == 0
                assert parameters_of(trainer) != begin
                offers = [trainer.replica.offer()[0]["offer"] for _ in range(2)]
                assert not np.array_equal(*offers), "the noise is another one"

    run_sim(1, main)


@pytest.mark.slow
def test_a_latecomer_takes_part_without_an_offer_until_it_has_the_state() -> None:
    strategy = LocalSGD(every=EVERY)

    async def main(network: SimNetwork) -> None:
        async with (
            local_swarm(network, strategy, (0.05, 0.06, 0.05), secure=SECURE) as trainers,
            trio.open_nursery() as nursery,
        ):
            for trainer in trainers:
                nursery.start_soon(trainer.train, 10**9)
            await trio.sleep(3)
            initial = trainers[0].node.addresses
            async with open_local(
                network, "late", strategy, initial_peers=initial, seed=9, secure=SECURE
            ) as late:
                with trio.fail_after(60):
                    await late.step()
                    assert len(late.caught_up) == 1
                    await late.train(late.caught_up[0] + 3)
                assert late.members[-1] == 4
            nursery.cancel_scope.cancel()
        shared = [held for held in late.held if held in trainers[0].held]
        assert len(shared) >= 3
        assert all(late.held[held] == trainers[0].held[held] for held in shared)

    run_sim(4, main)
