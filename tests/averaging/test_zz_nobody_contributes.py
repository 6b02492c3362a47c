"""All weights 0 over links of different speeds: every step must fail soon and say why."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from itertools import combinations

import pytest

from p2p.testing import SimNetwork, run_sim
from tests.averaging.swarm import open_swarm


@pytest.mark.parametrize("seed", range(10))
def test_nobody_contributes_over_uneven_links(seed: int) -> None:
    async def main(network: SimNetwork) -> None:
        rng = random.Random(seed)
        async with AsyncExitStack() as stack:
            swarm = await open_swarm(stack, network, 4)
            for one, other in combinations(swarm.ids, 2):
                network.set_link(one, other, latency_s=rng.uniform(0.0005, 0.005))
            await swarm.run(
                lambda number, averager, tensors: averager.step(
                    tensors, weight=0, expected=swarm.ids, deadline_s=20
                )
            )
        for number in range(4):
            report = swarm.failure(number)
            assert "nobody contributed" in report.reason, str(report)
            assert report.seconds < 3
        assert network.handler_errors == []

    run_sim(seed, main)
