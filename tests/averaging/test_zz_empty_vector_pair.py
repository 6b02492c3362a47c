"""An empty vector, a node and a client: the node commits alone and leaves, the client hangs."""

from __future__ import annotations

from contextlib import AsyncExitStack

import numpy as np

from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import open_swarm


@simulated
async def test_a_client_gets_an_empty_average(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2, clients=1)
        swarm.tensors = [{"vector": np.zeros(0, np.float32)} for _ in range(2)]
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids)
        )
    assert [swarm.report(number).outcome for number in range(2)] == ["success", "success"]
    assert all(member.weight == 1.0 for member in swarm.report(0).members.values())
