"""What a download of the state takes of the donors' uplinks, in simulated swarms."""

from collections.abc import Callable

import pytest
import trio

from averaging import DonorConfig
from p2p.testing import SimNetwork, run_sim
from tests.training.sim_trainer import SimTrainer, open_trainer
from tests.training.test_session import swarm
from training.config import SwarmConfig

LINK_BYTES_PER_S = 1e6
ELEMENTS = 30_000  # the state has 480 kB


async def train_and_let_in(
    network: SimNetwork, donor: DonorConfig, look: Callable[[list[SimTrainer]], None]
) -> SimTrainer:
    """A newcomer in a swarm of two that compute next to nothing, so that a round always is on."""
    network.default_latency_s = 0.002
    network.default_bytes_per_s = LINK_BYTES_PER_S
    config = SwarmConfig(donor=donor)
    async with (
        swarm(network, 2, compute_s=(0.001,), elements=ELEMENTS, config=config) as trainers,
        trio.open_nursery() as nursery,
    ):
        for trainer in trainers:
            nursery.start_soon(trainer.train, 10**9)
        while trainers[0].position.step < 6:
            look(trainers)
            await trio.sleep(0.05)
        addresses = trainers[0].node.addresses
        async with open_trainer(
            network, "late", initial_peers=addresses, elements=ELEMENTS
        ) as late:
            await late.step()
            assert len(late.caught_up) == 1
        nursery.cancel_scope.cancel()
    return late


@pytest.mark.slow
def test_newcomers_are_held_to_a_share_of_the_uplink_while_rounds_need_it() -> None:
    seen: set[float | None] = set()

    def look(trainers: list[SimTrainer]) -> None:
        seen.add(trainers[0].session.uplink_in_use())

    async def main(network: SimNetwork) -> None:
        free = await train_and_let_in(network, DonorConfig(uplink_share=None), look)
        known = [rate for rate in seen if rate is not None]
        assert None in seen, "nothing is known at first"
        assert known
        assert known == pytest.approx([LINK_BYTES_PER_S] * len(known), rel=0.5)
        rounds.append(free.replayed)

    async def capped(network: SimNetwork) -> None:
        # Of two donors, at most 100 kB/s together.
        late = await train_and_let_in(network, DonorConfig(uplink_share=0.05), look)
        rounds.append(late.replayed)

    rounds: list[int] = []
    run_sim(1, main)
    run_sim(1, capped)
    print(f"rounds during the download: {rounds}")
    assert rounds[1] >= 2 * rounds[0]
