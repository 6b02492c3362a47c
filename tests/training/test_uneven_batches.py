"""Peers with micro-batches of any sizes equal one process on the same samples, also if one dies.

The promise of DeDLOC (Diskin et al. 2021, section 3.1): gradients are averaged by samples, and who
is lost while it accumulates leaves both sums, that of the gradients and that of the samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import MOMENTUM, RATE, SimTrainer, gradient, open_trainer

STEPS = 12
GLOBAL_BATCH = 96
DIES_AT_STEP = 5
Batch = tuple[str, int]


def size_of(batch: Batch) -> int:
    """1 to 9 samples, as the batch's name decides."""
    return 1 + hashlib.sha256(repr(batch).encode()).digest()[0] % 9


async def train(network: SimNetwork, trainer: SimTrainer, *, dies: bool) -> None:
    """Compute and step to the end, or die with two micro-batches computed and not averaged."""
    while trainer.position.step < STEPS:
        await trio.sleep(trainer.compute_s)
        batch = (trainer.name, trainer.number)
        trainer.batch_size = size_of(batch)
        trainer.sums += trainer.batch_size * gradient(trainer.theta, batch)
        trainer.batches.append(batch)
        trainer.samples += trainer.batch_size
        trainer.number += 1
        await trainer.step()
        if dies and trainer.position.step >= DIES_AT_STEP and len(trainer.batches) == 2:
            network.crash(trainer.node.peer_id)
            return


def batches_of(trainers: Sequence[SimTrainer], step: int) -> list[Batch]:
    """What went into a step, as those who took it say."""
    logs = {
        trainer.node.peer_id: log
        for trainer in trainers
        for log in trainer.steps
        if log.step == step
    }
    (members,) = {tuple(log.members.items()) for log in logs.values()}
    assert dict(members) == dict.fromkeys(sorted(logs), 1.0)
    return [batch for log in logs.values() for batch in log.batches]


def check(trainers: Sequence[SimTrainer], survivors: Sequence[SimTrainer]) -> None:
    """Replay all steps in one process."""
    theta = velocity = np.zeros_like(trainers[0].theta)
    total = 0
    for step in range(1, STEPS + 1):
        batches = batches_of(trainers, step)
        samples = sum(map(size_of, batches))
        assert samples >= 0.9 * GLOBAL_BATCH
        summed = sum((size_of(b) * gradient(theta, b) for b in batches), np.zeros_like(theta))
        velocity = MOMENTUM * velocity + summed / samples
        theta = theta - RATE * velocity
        total += samples
    for trainer in survivors:
        assert trainer.position.step == STEPS
        assert trainer.position.samples == total
        np.testing.assert_allclose(trainer.theta, theta, rtol=0, atol=1e-10)
    assert len({trainer.theta.tobytes() for trainer in survivors}) == 1


@pytest.mark.parametrize(
    ("count", "dies"),
    [
        (1, False),
        (3, False),
        (3, True),
        pytest.param(8, False, marks=(pytest.mark.slow, pytest.mark.soak)),
        pytest.param(8, True, marks=pytest.mark.slow),
    ],
)
def test_any_micro_batches_equal_one_process(count: int, dies: bool) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.002
        async with AsyncExitStack() as stack:
            trainers: list[SimTrainer] = []
            for number in range(count):
                trainers.append(
                    await stack.enter_async_context(
                        open_trainer(
                            network,
                            f"trainer-{number}",
                            initial_peers=trainers[0].node.addresses if trainers else (),
                            compute_s=0.03 + 0.01 * (number % 4),
                            global_batch=GLOBAL_BATCH,
                        )
                    )
                )
            with trio.fail_after(30):
                while any(one.peers() < count for one in trainers):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    doomed = dies and trainer is trainers[1]
                    nursery.start_soon(lambda t=trainer, d=doomed: train(network, t, dies=d))
            survivors = [one for one in trainers if not (dies and one is trainers[1])]
            check(trainers, survivors)
            if dies:
                assert len(trainers[1].batches) == 2, "it died with samples that nobody has"
                assert trainers[1].position.step < STEPS

    run_sim(3, main)
