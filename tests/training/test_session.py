"""Simulated swarms: stepping together, joining late, losing peers, averaging the state."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, open_trainer, replay
from training.errors import SpecDiffers

NAMES = ("alice", "bob", "carol", "dave", "erin")


@asynccontextmanager
async def swarm(
    network: SimNetwork, count: int, *, compute_s: Sequence[float] = (0.05,), **options: Any
) -> AsyncIterator[list[SimTrainer]]:
    """Trainers that know each other."""
    async with AsyncExitStack() as stack:
        trainers: list[SimTrainer] = []
        for index, name in enumerate(NAMES[:count]):
            initial = trainers[0].node.addresses if trainers else ()
            trainers.append(
                await stack.enter_async_context(
                    open_trainer(
                        network,
                        name,
                        initial_peers=initial,
                        compute_s=compute_s[index % len(compute_s)],
                        **options,
                    )
                )
            )
        with trio.fail_after(30):
            while any(trainer.peers() < count for trainer in trainers):  # noqa: ASYNC110
                await trio.sleep(0.01)
        yield trainers
    assert network.handler_errors == []


async def train(trainers: Sequence[SimTrainer], steps: int) -> None:
    async with trio.open_nursery() as nursery:
        for trainer in trainers:
            nursery.start_soon(trainer.train, steps)


def assert_equal_to_one_process(trainers: Sequence[SimTrainer], steps: int) -> None:
    logs: dict[int, list[list[tuple[str, int]]]] = {}
    for trainer in trainers:
        for log in trainer.steps:
            logs.setdefault(log.step, []).append(log.batches)
            whole = {peer for peer, fraction in log.members.items() if fraction == 1.0}
            assert trainer.node.peer_id in whole
    expected = replay(np.zeros_like(trainers[0].theta), logs, steps)
    for trainer in trainers:
        if trainer.position.step == steps:
            np.testing.assert_allclose(trainer.theta, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_peers_step_together_and_equal_one_process(count: int) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.002
        async with swarm(network, count, compute_s=(0.05, 0.07, 0.031)) as trainers:
            await train(trainers, 20)
            assert_equal_to_one_process(trainers, 20)
            for trainer in trainers:
                assert [log.step for log in trainer.steps] == list(range(1, 21)), trainer.failures
                assert trainer.caught_up == []
                assert trainer.failures == []
                assert len({log.members.keys() for log in trainer.steps[:0]}) == 0
                assert all(len(log.members) == count for log in trainer.steps)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1

    run_sim(1, main)


def test_a_batch_of_one_micro_batch_keeps_everybody_together() -> None:
    """Each peer alone has the whole global batch at once; still nobody runs ahead."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.002
        async with swarm(network, 3, compute_s=(0.01, 0.02, 0.03), global_batch=8) as trainers:
            await train(trainers, 20)
            assert_equal_to_one_process(trainers, 20)
            for trainer in trainers:
                assert all(len(log.members) == 3 for log in trainer.steps)
                assert trainer.caught_up == []

    run_sim(2, main)


@pytest.mark.parametrize("seed", range(5))
def test_a_crashed_peers_samples_leave_the_sums(seed: int) -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 4, compute_s=(0.05, 0.06, 0.07)) as trainers:
            victim = trainers[seed % 3]
            survivors = [trainer for trainer in trainers if trainer is not victim]

            async def crash() -> None:
                await trio.sleep(0.5 + network.rng.random())
                network.crash(victim.node.peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                nursery.start_soon(victim.train, 15)
                await train(survivors, 15)
                nursery.cancel_scope.cancel()
            whole = {trainer.node.peer_id for trainer in survivors}
            for trainer in survivors:
                assert len(trainer.steps) == 15, trainer.failures
                assert trainer.steps[-1].members.keys() == whole
            assert len({trainer.theta.tobytes() for trainer in survivors}) == 1
            waits = np.diff([log.at_s for log in survivors[0].steps])
            assert waits.max() < 6, "one loss costs seconds, not the patience of a deadline"

    run_sim(seed, main)


@pytest.mark.parametrize("compute_s", [0.001, 0.01, 1.0])
@pytest.mark.parametrize("elements", [10, 20_000])
def test_a_newcomer_gets_in_while_the_swarm_runs(compute_s: float, elements: int) -> None:
    """Also when steps are much faster than the download of the state."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        options: dict[str, Any] = {"compute_s": compute_s, "elements": elements}
        async with swarm(network, 3, **{**options, "compute_s": (compute_s,)}) as trainers:
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.train, 10**9)
                await trio.sleep(30 * compute_s + 2)
                async with open_trainer(
                    network, "late", initial_peers=trainers[0].node.addresses, **options
                ) as late:
                    with trio.fail_after(60 + 100 * compute_s):
                        await late.step()
                        assert len(late.caught_up) == 1
                        nursery.start_soon(late.train, 10**9)
                        while len(late.steps) < 5:  # noqa: ASYNC110
                            await trio.sleep(compute_s)
                    everybody = [*trainers, late]
                    goal = max(trainer.position.step for trainer in everybody) + 2
                    for trainer in everybody:
                        trainer.stop = True
                    nursery.cancel_scope.cancel()
            first = late.steps[0].step
            assert len(late.caught_up) == 1, "it never fell behind again"
            assert [log.step for log in late.steps] == list(range(first, first + len(late.steps)))
            assert goal > first
            together = [t for t in trainers if t.position == late.position]
            assert together
            for trainer in together:
                assert trainer.theta.tobytes() == late.theta.tobytes()

    run_sim(3, main)
