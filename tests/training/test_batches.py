"""Simulated swarms whose global batch changes: all peers keep the same target, late ones too."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, open_trainer
from tests.training.test_session import swarm, train
from training.progress import BatchSchedule, NoiseScaleBatch, RampBatch

BY_NOISE = NoiseScaleBatch(first=64, smallest=16, largest=512, grid=8, decay=0.8)


def assert_all_agree(trainers: list[SimTrainer]) -> None:
    """Wherever two of them were, they expected the same of the next step."""
    for trainer in trainers[1:]:
        common = trainers[0].positions.keys() & trainer.positions.keys()
        assert len(common) >= 5
        for where in common:
            assert trainers[0].positions[where] == trainer.positions[where]


@pytest.mark.slow
@pytest.mark.parametrize("initial", [5.0, 0.0])
def test_all_find_the_same_noise_scale(initial: float) -> None:
    """Far from the minimum the gradient outweighs its noise; at the minimum there is only noise."""

    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3, global_batch=BY_NOISE, initial=initial) as trainers:
            await train(trainers, 12)
            assert_all_agree(trainers)
            targets = [
                BY_NOISE.samples_at(position.step, position.batch_memory)
                for position in trainers[0].positions.values()
            ]
            assert (targets[-1] == 16) if initial else (targets[-1] >= 4 * 64)
            delivered = np.diff([p.samples for p in trainers[0].positions.values()])
            expected = [0.9 * target for target in targets[:-1]]
            assert (delivered >= expected).all(), "the batch is what the schedule says"

    run_sim(21, main)


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(BY_NOISE, id="noise", marks=pytest.mark.slow),
        pytest.param(RampBatch(first=32, last=128, steps=40), id="ramp"),
    ],
)
def test_a_latecomer_keeps_the_same_target(schedule: BatchSchedule) -> None:
    """Also while it follows: it decides with the others which rounds bring a step."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        options: dict[str, Any] = {"global_batch": schedule, "elements": 20_000, "compute_s": 0.01}
        # Several rounds pass until the state is there.
        slow: dict[str, Any] = {**options, "compute_s": (0.01,), "snapshot_s": 1.0}
        async with swarm(network, 3, **slow) as trainers:
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.train, 10**9)
                await trio.sleep(1.5)
                async with open_trainer(
                    network, "late", initial_peers=trainers[0].node.addresses, **options
                ) as late:
                    with trio.fail_after(60):
                        await late.step()
                        assert len(late.caught_up) == 1
                        nursery.start_soon(late.train, 10**9)
                        while len(late.steps) < 10:  # noqa: ASYNC110
                            await trio.sleep(0.01)
                    nursery.cancel_scope.cancel()
            assert late.replayed > 0, "it followed while the state came"
            assert len(late.caught_up) == 1
            assert_all_agree([*trainers, late])
            assert sum(len(trainer.failures) for trainer in (*trainers, late)) == 0

    run_sim(22, main)


@pytest.mark.slow
def test_a_false_memory_is_outvoted() -> None:
    """The state itself names the schedule's memory, and most donors must agree on it."""

    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3, global_batch=BY_NOISE) as trainers:
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.train, 10**9)
                await trio.sleep(2)
                liar = trainers[0].session
                own = liar.own
                liar.tracker.report(
                    replace(
                        own, position=replace(own.position, batch_memory=(16.0, 1.0, 1.0, 1.0))
                    ),
                    target=1,
                )
                async with open_trainer(
                    network,
                    "late",
                    initial_peers=trainers[0].node.addresses,
                    global_batch=BY_NOISE,
                ) as late:
                    with trio.fail_after(60):
                        nursery.start_soon(late.train, 10**9)
                        while len(late.steps) < 10:  # noqa: ASYNC110
                            await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()
            assert_all_agree([*trainers[1:], late])

    run_sim(23, main)
