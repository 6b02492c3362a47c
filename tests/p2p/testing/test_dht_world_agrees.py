"""The simulator's hop counts agree with those of as many real nodes that keep the same rules."""

import random

import pytest
import trio
from trio.testing import MockClock

from p2p.dht.key import KEY_BITS
from p2p.testing.dht_world import DhtWorld, SwarmPlan
from p2p.testing.dht_world.peer import SimulatedPeer
from p2p.testing.dht_world.steps import Steps
from tests.p2p.dht.swarms import open_swarm

NODES = 64
LOOKUPS = 60


def simulated_hops() -> list[int]:
    """Of lookups by random nodes for random keys, in a calm simulated swarm."""
    plan = SwarmPlan(nodes=NODES, minutes=1, churn_per_h=0, loss=0, liars=0, gets_per_node_h=0)
    world = DhtWorld(plan)
    world.heap.run_until(plan.begins_s)
    rng = random.Random(5)
    hops: list[int] = []

    def look_up(peer: SimulatedPeer) -> Steps[None]:
        lookup = yield from peer.find_nearest(rng.getrandbits(KEY_BITS), 5)
        hops.append(lookup.hops)

    for _ in range(LOOKUPS):
        peer = rng.choice(world.peers)
        peer.start(look_up(peer))
    world.heap.run_until(plan.ends_s)
    return hops


@pytest.mark.slow
async def test_hops_agree_with_real_nodes(autojump_clock: MockClock) -> None:
    rng = random.Random(5)
    async with open_swarm() as swarm:
        dhts = [(await swarm.add())[1] for _ in range(NODES)]
        await trio.sleep(120)
        real = [
            (await rng.choice(dhts)._client.find_nearest(rng.getrandbits(KEY_BITS), 5)).hops
            for _ in range(LOOKUPS)
        ]
    simulated = simulated_hops()
    assert len(simulated) == LOOKUPS
    assert max(real) <= 3
    assert max(simulated) <= 3
    assert abs(sum(real) - sum(simulated)) / LOOKUPS < 0.35
