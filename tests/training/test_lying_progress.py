"""One that claims samples it does not have moves no step: what was delivered counts."""

from __future__ import annotations

import pytest
import trio

from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, open_trainer, replay
from tests.training.test_session import swarm

STEPS = 8
GLOBAL_BATCH = 64
CLAIMED = 10**9


async def claim(liar: SimTrainer, *, delivers: bool) -> None:
    """Says after each micro-batch that it has all samples, and brings what it has, or nothing."""
    told = 0
    while liar.position.step < STEPS:
        await trio.sleep(liar.compute_s)
        liar.compute()
        told += CLAIMED
        advice = await liar.session.advise(told, 1e9, liar.compute_s)
        if delivers and advice.name == "ROUND":
            await liar.hold_round()
        elif advice.name == "CATCH_UP":
            await liar.catch_up()


@pytest.mark.slow
@pytest.mark.parametrize("delivers", [True, False])
def test_steps_are_taken_on_samples_that_were_delivered(delivers: bool) -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.002
        async with (
            swarm(network, 3, global_batch=GLOBAL_BATCH) as honest,
            open_trainer(
                network,
                "liar",
                initial_peers=honest[0].node.addresses,
                global_batch=GLOBAL_BATCH,
            ) as liar,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(lambda: claim(liar, delivers=delivers))
            with trio.fail_after(300):
                async with trio.open_nursery() as honest_nursery:
                    for trainer in honest:
                        honest_nursery.start_soon(trainer.train, STEPS)
            print(f"{STEPS} steps in {trio.current_time():.0f} s, {honest[0].failures[:2]}")
            nursery.cancel_scope.cancel()
        everybody = [*honest, liar] if delivers else honest
        logs = {
            step: [log.batches for one in everybody for log in one.steps if log.step == step]
            for step in range(1, STEPS + 1)
        }
        for step in range(1, STEPS + 1):
            samples = sum(len(batches) for batches in logs[step]) * honest[0].batch_size
            assert samples >= 0.9 * GLOBAL_BATCH, f"step {step}"
        assert len({trainer.theta.tobytes() for trainer in honest}) == 1
        expected = replay(honest[0].theta * 0, logs, STEPS)
        assert honest[0].theta == pytest.approx(expected, rel=0, abs=1e-10)

    run_sim(1, main)
