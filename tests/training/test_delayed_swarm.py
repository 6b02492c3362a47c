"""Simulated swarms with delayed updates: what overlaps, who is lost, who comes late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, StepLog, open_trainer
from tests.training.test_session import swarm, train
from training.advice import Advice
from training.delayed import BackgroundRound, BackgroundRounds, open_background_rounds


@dataclass
class DelayedTrainer:
    """Steps as Stepper does with delayed updates, on a trainer without PyTorch."""

    trainer: SimTrainer
    rounds: BackgroundRounds
    under_way: BackgroundRound | None = None
    unapplied: BackgroundRound | None = None
    waits_s: list[float] = field(default_factory=list)
    """How long each step() took."""

    async def train(self, steps: int) -> None:
        trainer = self.trainer
        while trainer.position.step < steps and not trainer.stop:
            await trio.sleep(trainer.compute_s)
            trainer.compute()
            began_s = trio.current_time()
            await self.step()
            self.waits_s.append(trio.current_time() - began_s)

    async def step(self) -> None:
        trainer = self.trainer
        if self.under_way is not None and not await self._hear(self.under_way):
            return
        speed = trainer.batch_size / trainer.compute_s
        advice = await trainer.session.advise(trainer.samples, speed, trainer.compute_s)
        if advice is not Advice.ACCUMULATE and self.unapplied is not None:
            self._apply(self.unapplied)
        if advice is Advice.CATCH_UP:
            await self.rounds.on_applied()
            await trainer.catch_up()
        elif advice is Advice.ROUND:
            means = {"theta": trainer.sums / max(trainer.samples, 1)}
            self.under_way = BackgroundRound(means, trainer.samples)
            trainer.forget()
            await self.rounds.begin(self.under_way)

    async def _hear(self, round: BackgroundRound) -> bool:
        """Whether to go on: the round has ended, and with a result."""
        trainer = self.trainer
        if not await self.rounds.hear(round, trainer.samples, False):
            return False
        self.under_way = None
        if round.result is not None and round.result.accepted:
            self.unapplied = round
            return True
        trainer.sums = trainer.sums + round.samples * round.means["theta"]
        trainer.samples += round.samples
        if round.failure is not None:
            trainer.failures.append(str(round.failure))
            if round.failure.report.behind is not None:
                await trainer.catch_up(round.failure.report.behind)
        return False

    def _apply(self, round: BackgroundRound) -> None:
        trainer, self.unapplied = self.trainer, None
        assert round.result is not None
        trainer.apply(round.means["theta"])
        trainer.position = round.result.position
        trainer.keep()
        members = {str(p): m.fraction for p, m in sorted(round.result.report.members.items())}
        now_s = trio.current_time()
        trainer.steps.append(StepLog(trainer.position.step, [], members, now_s))


@asynccontextmanager
async def delayed(trainer: SimTrainer) -> AsyncIterator[DelayedTrainer]:
    async with open_background_rounds(trainer.session) as rounds:
        yield DelayedTrainer(trainer, rounds)


async def train_all(trainers: list[SimTrainer], steps: int) -> list[DelayedTrainer]:
    made: list[DelayedTrainer] = []

    async def train(trainer: SimTrainer) -> None:
        async with delayed(trainer) as one:
            made.append(one)
            await one.train(steps)

    async with trio.open_nursery() as nursery:
        for trainer in trainers:
            nursery.start_soon(train, trainer)
    return made


def assert_same_bits(trainers: list[SimTrainer], count: int) -> None:
    for trainer in trainers[1:]:
        common = trainers[0].held.keys() & trainer.held.keys()
        assert len(common) >= count
        assert all(trainers[0].held[where] == trainer.held[where] for where in common)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compute_s", "faster", "waits"),
    # Three micro-batches make a batch, and a round takes 0.23 to 0.27 s.
    [(0.15, 1.4, False), (0.05, 1.25, True)],
)
def test_a_step_takes_as_long_as_the_slower_of_computing_and_averaging(
    compute_s: float, faster: float, waits: bool
) -> None:
    """In simulated time, by the same links, against a swarm that waits for its rounds."""
    steps_s = {}

    def mean_step_s(trainer: SimTrainer) -> float:
        return float(np.diff([log.at_s for log in trainer.steps[1:]]).mean())

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        async with swarm(network, 4, elements=40_000, compute_s=(compute_s,)) as trainers:
            await train(trainers, 8)
            steps_s["waiting"] = mean_step_s(trainers[0])

    async def main_delayed(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        async with swarm(network, 4, elements=40_000, compute_s=(compute_s,)) as trainers:
            made = await train_all(trainers, 8)
            assert_same_bits(trainers, 8)
            for one in made:
                assert one.trainer.failures == []
                assert all(len(log.members) == 4 for log in one.trainer.steps)
                assert (max(one.waits_s) > 0.02) == waits
                if not waits:
                    assert max(one.waits_s) < 0.002, "no call waited for the network"
            steps_s["delayed"] = mean_step_s(trainers[0])

    run_sim(31, main)
    run_sim(31, main_delayed)
    assert steps_s["waiting"] / steps_s["delayed"] > faster
    if not waits:
        assert steps_s["delayed"] == pytest.approx(3 * compute_s, rel=0.02)


@pytest.mark.parametrize("seed", [41, pytest.param(42, marks=pytest.mark.slow)])
def test_a_crashed_peers_samples_leave_and_the_others_go_on_alike(seed: int) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_bytes_per_s = 2e6
        async with swarm(network, 4, elements=20_000, compute_s=(0.05, 0.06)) as trainers:
            victim = trainers[seed % 4]
            survivors = [trainer for trainer in trainers if trainer is not victim]

            async def crash() -> None:
                await trio.sleep(0.8 + network.rng.random())
                network.crash(victim.node.peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                nursery.start_soon(train_all, [victim], 10**9)
                await train_all(survivors, 20)
                nursery.cancel_scope.cancel()
            assert_same_bits(survivors, 15)
            for trainer in survivors:
                assert trainer.steps[-1].members.keys() == {
                    str(survivor.node.peer_id) for survivor in survivors
                }

    run_sim(seed, main)


@pytest.mark.slow
def test_a_latecomer_takes_over_the_applied_state_and_goes_on_with_the_others() -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 1e6
        async with swarm(network, 3, elements=20_000, compute_s=(0.03,)) as trainers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(train_all, trainers, 10**9)
                await trio.sleep(2)
                async with (
                    open_trainer(
                        network,
                        "late",
                        initial_peers=trainers[0].node.addresses,
                        elements=20_000,
                        compute_s=0.03,
                    ) as late,
                    delayed(late) as one,
                ):
                    with trio.fail_after(60):
                        await late.session.advise(0, 0.0, 0.0)
                        await late.catch_up()
                        assert len(late.caught_up) == 1
                        nursery.start_soon(one.train, 10**9)
                        while len(late.steps) < 8:  # noqa: ASYNC110
                            await trio.sleep(0.03)
                    nursery.cancel_scope.cancel()
            assert len(late.caught_up) == 1
            assert_same_bits([*trainers, late], 8)

    run_sim(33, main)


def test_a_round_that_never_began_gives_back_what_was_to_be_in_it() -> None:
    """Ctrl-C may come before trio's thread has begun it; and who leaves then waits for nothing."""

    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2) as trainers, delayed(trainers[0]) as one:
            one.under_way = BackgroundRound({"theta": np.full(10, 2.0)}, 8)
            await one.step()
            assert one.under_way is None
            assert (trainers[0].samples, trainers[0].sums.tolist()) == (8, [16.0] * 10)
            await one.rounds.cancel()
            await one.train(2)
            assert trainers[0].position.step == 2

    run_sim(34, main)
