"""A member far too slow for the round: the others do not wait for it until the deadline."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from averaging import AveragerConfig
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import open_swarm


@pytest.mark.slow
@pytest.mark.parametrize("clients", [0, 1])
@simulated
async def test_a_member_far_too_slow_is_left_out(network: SimNetwork, clients: int) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, clients=clients, elements=50_000)
        network.default_bytes_per_s = 1_000_000
        for other in swarm.ids[:3]:
            # At single rates, such as 2 000, the attempts fall so that the deadline ends it.
            network.set_link(other, swarm.ids[3], bytes_per_s=1_990)
        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, expected=swarm.ids, deadline_s=30
            ),
            config=AveragerConfig(group_size_min=3),
        )
    for number in range(3):
        assert swarm.report(number).succeeded
        assert swarm.report(number).seconds < 20
        assert swarm.report(number).members[swarm.ids[3]].fraction < 1
