"""Simulated swarms: stepping together, joining late, losing peers, averaging the state."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from averaging.allreduce.config import AllreduceConfig
from averaging.matchmaking.seek import LEADER_SILENCE_S
from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, open_trainer, replay
from training.config import SwarmConfig
from training.errors import CatchUpFailed, SpecDiffers

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


def slow(*cases: tuple[float, ...], also: pytest.MarkDecorator = pytest.mark.slow) -> list[object]:
    """Parameters that are left out of the quick tests."""
    return [pytest.param(*one, marks=(pytest.mark.slow, also)) for one in cases]


@pytest.mark.parametrize("count", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
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
                assert all(len(log.members) == count for log in trainer.steps)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1

    run_sim(1, main)


@pytest.mark.slow
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


@pytest.mark.parametrize("seed", [0, *slow((1,), (2,)), *slow((3,), (4,), also=pytest.mark.soak)])
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


async def get_in(
    network: SimNetwork, trainers: Sequence[SimTrainer], compute_s: float, **options: Any
) -> SimTrainer:
    """A latecomer joins a swarm that runs; all run until it has taken five steps with it."""
    async with trio.open_nursery() as nursery:
        for trainer in trainers:
            nursery.start_soon(trainer.train, 10**9)
        await trio.sleep(10 * compute_s + 1)
        async with open_trainer(
            network,
            "late",
            initial_peers=trainers[0].node.addresses,
            compute_s=compute_s,
            **options,
        ) as late:
            began_s, began_at = trio.current_time(), trainers[0].position.step
            with trio.fail_after(60 + 100 * compute_s):
                await late.step()
                assert len(late.caught_up) == 1
                print(
                    f"in after {trio.current_time() - began_s:.2f} s and "
                    f"{late.position.step - began_at} steps, {late.replayed} of them replayed"
                )
                nursery.start_soon(late.train, 10**9)
                while len(late.steps) < 5:  # noqa: ASYNC110
                    await trio.sleep(compute_s)
            nursery.cancel_scope.cancel()
    return late


@pytest.mark.parametrize(
    ("compute_s", "elements"),
    [
        (0.001, 20_000),
        *slow((0.001, 10), (1.0, 20_000)),
        *slow((0.01, 10), (0.01, 20_000), (1.0, 10), also=pytest.mark.soak),
    ],
)
def test_a_newcomer_gets_in_while_the_swarm_runs(compute_s: float, elements: int) -> None:
    """Also when steps are much faster than the download of the state."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        async with swarm(network, 3, compute_s=(compute_s,), elements=elements) as trainers:
            late = await get_in(network, trainers, compute_s, elements=elements)
            assert len(late.caught_up) == 1, "it never fell behind again"
            first = late.steps[0].step
            assert [log.step for log in late.steps] == list(range(first, first + len(late.steps)))
            assert (late.replayed > 0) == (compute_s < 0.1 and elements > 10)
            for trainer in trainers:
                common = trainer.held.keys() & late.held.keys()
                assert len(common) >= 5
                assert all(trainer.held[where] == late.held[where] for where in common)
            assert all(trainer.snapshots <= 2 for trainer in trainers), "only on demand"
            assert sum(len(trainer.failures) for trainer in trainers) == 0

    run_sim(5, main)


@pytest.mark.slow
def test_a_newcomer_gets_in_though_donors_die() -> None:
    async def main(network: SimNetwork) -> None:
        network.default_bytes_per_s = 2e5
        async with swarm(network, 4, elements=50_000) as trainers:

            async def crash() -> None:
                await trio.sleep(3)
                network.crash(trainers[0].node.peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                options = {"elements": 50_000}
                late = await get_in(network, [*trainers[1:], trainers[0]], 0.05, **options)
            assert late.steps

    run_sim(4, main)


@pytest.mark.slow
def test_a_frozen_peer_is_left_behind_and_catches_up() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3) as trainers:
            victim = trainers[1]

            async def freeze() -> None:
                await trio.sleep(0.8)
                network.freeze(victim.node.peer_id)
                await trio.sleep(15)
                network.thaw(victim.node.peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(freeze)
                await train(trainers, 80)
            assert len(victim.caught_up) >= 1
            assert victim.position.step == 80
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1
            assert all(len(trainer.steps) == 80 for trainer in (trainers[0], trainers[2]))

    run_sim(5, main)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins_after_s", "waits_s_max"),
    [
        # Long enough to pass over a leader that is silent.
        (0.0, LEADER_SILENCE_S + 1.0),
        # It may have entered the group already, and then its values are awaited.
        (0.1, AllreduceConfig().start_patience_s + 1.0),
        (0.2, AllreduceConfig().start_patience_s + 1.0),
    ],
)
def test_one_that_computes_far_longer_than_usual_is_not_waited_for_long(
    begins_after_s: float, waits_s_max: float
) -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3) as trainers:
            slow = trainers[2]

            async def dawdle() -> None:
                while len(slow.steps) < 5:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                await trio.sleep(begins_after_s)
                slow.compute_s = 30.0
                await trio.sleep(5)
                slow.compute_s = 0.05

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dawdle)
                await train(trainers, 60)
            waits = np.diff([log.at_s for log in trainers[0].steps])
            assert waits.max() < waits_s_max
            assert slow.caught_up

    run_sim(6, main)


def test_a_client_takes_part() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2) as trainers:
            address = trainers[0].node.addresses
            async with open_trainer(
                network, "client", initial_peers=address, client_mode=True
            ) as client:
                everybody = [*trainers, client]
                with trio.fail_after(30):
                    while any(trainer.peers() < 3 for trainer in everybody):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                await train(everybody, 10)
                assert all(len(log.members) == 3 for log in client.steps)
                assert_equal_to_one_process(everybody, 10)

    run_sim(7, main)


def test_different_beginnings_end_in_one() -> None:
    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
            trainers: list[SimTrainer] = []
            for index, name in enumerate(NAMES[:3]):
                initial = trainers[0].node.addresses if trainers else ()
                trainer = await stack.enter_async_context(
                    open_trainer(network, name, initial_peers=initial, initial=float(index))
                )
                trainers.append(trainer)
            first = min(trainers, key=lambda trainer: trainer.position)
            await train(trainers, 5)
            assert first.caught_up == []
            assert sum(len(trainer.caught_up) for trainer in trainers) >= 2
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1

    run_sim(8, main)


@pytest.mark.slow
def test_two_swarms_that_grew_apart_become_one() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 4, compute_s=(0.3,)) as trainers:
            left, right = trainers[:1], trainers[1:]
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.train, 10**9)
                await trio.sleep(5)
                network.partition([left[0].node.peer_id], [t.node.peer_id for t in right])
                await trio.sleep(30)
                assert left[0].position.step > 8
                assert all(trainer.position.step > 8 for trainer in right)
                apart = {trainer.position.round for trainer in trainers}
                network.heal()
                await trio.sleep(40)
                nursery.cancel_scope.cancel()
            assert len(apart) >= 2
            steps = [trainer.position.step for trainer in trainers]
            assert max(steps) - min(steps) <= 1
            assert left[0].caught_up
            assert all(len(trainer.steps[-1].members) == 4 for trainer in trainers)

    run_sim(9, main)


@pytest.mark.slow
def test_averaging_the_state_makes_all_bits_equal() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3) as trainers:
            await train(trainers, 5)
            for index, trainer in enumerate(trainers):
                trainer.theta = trainer.theta * (1 + 1e-9 * index)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 3
            expected = sum(trainer.theta for trainer in trainers) / 3
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.equalize)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1
            np.testing.assert_allclose(trainers[0].theta, expected, rtol=1e-15)
            assert len({trainer.position for trainer in trainers}) == 1
            await train(trainers, 10)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1
            assert [trainer.caught_up for trainer in trainers] == [[], [], []]

    run_sim(10, main)


def test_another_model_under_the_same_name_is_told_at_once() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2) as trainers:
            await train(trainers, 3)
            address = trainers[0].node.addresses
            with pytest.raises(SpecDiffers) as caught:
                async with open_trainer(network, "other", initial_peers=address, spec_name="phi"):
                    raise AssertionError("it must not get in")
            assert "another run name" in str(caught.value)
            assert caught.value.theirs == trainers[0].session.own.spec_hash
            await train(trainers, 6)
            assert all(len(log.members) == 2 for log in trainers[0].steps)

    run_sim(11, main)


def test_a_state_that_nobody_gives_ends_in_a_clear_error() -> None:
    async def main(network: SimNetwork) -> None:
        config = SwarmConfig(state_timeout_s=2, catch_up_tries_max=2)
        async with swarm(network, 2, stuck=True) as trainers:
            await train(trainers, 3)
            address = trainers[0].node.addresses
            async with open_trainer(network, "late", initial_peers=address, config=config) as late:
                with pytest.raises(CatchUpFailed, match="2 tries"):
                    await late.step()
                assert late.session.own.holds_state, "it is what it was"

    run_sim(12, main)


def test_when_those_ahead_are_gone_everything_stays() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2, stuck=True) as trainers:
            await train(trainers, 3)
            address = trainers[0].node.addresses
            async with open_trainer(network, "late", initial_peers=address) as late:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(late.step)
                    await trio.sleep(1)
                    for trainer in trainers:
                        network.crash(trainer.node.peer_id)
                assert late.caught_up == []
                await late.train(2)
                assert late.position.step == 2

    run_sim(13, main)
