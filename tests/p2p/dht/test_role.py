"""A node serves the DHT while outsiders get through to it, and is a client otherwise."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from p2p.dht import DhtConfig
from tests.p2p.dht.swarms import open_swarm


async def test_a_private_node_is_in_nobodys_table(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        relay, alice = await swarm.add("alice")
        swarm.network.set_relay(relay.peer_id)
        _, bob = await swarm.add("bob")
        node, carol = await swarm.add("carol", private=True)
        # It tells of its LAN and of circuits; neither helps those who look something up.
        assert len(node.addresses) == 2
        assert (await carol.put("k", b"v", ttl_s=60)).replicas == 2
        assert await bob.get("k") is not None
        await trio.sleep(600)
        assert node.peer_id not in (*alice.peers, *bob.peers)
        assert len(carol.peers) == 2


async def test_the_role_follows_the_verdict(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        config = DhtConfig(replicas=3)
        _, alice = await swarm.add("alice", config)
        _, bob = await swarm.add("bob", config)
        carol_node, carol = await swarm.add("carol", config)
        others = [(await swarm.add(config=config))[1] for _ in range(4)]
        assert carol_node.peer_id in alice.peers
        for number in range(20):
            assert (await alice.put(f"k{number}", b"v", ttl_s=3000)).replicas == 3
        held = len(carol._state.store)
        assert held

        swarm.network.set_private(carol_node.peer_id)
        await trio.sleep(5)
        for dht in (alice, bob, *others):
            assert carol_node.peer_id not in dht.peers
        assert len(carol._state.store) == 0
        # What it held is with others now: three copies of each.
        copies = sum(len(dht._state.store) for dht in (alice, bob, *others))
        assert copies == 20 * 3
        assert (await carol.put("own", b"v", ttl_s=3000)).replicas == 3
        assert len(carol._state.store) == 0
        for number in range(20):
            assert await carol.get(f"k{number}") is not None

        swarm.network.set_private(carol_node.peer_id, False)
        await trio.sleep(5)
        assert carol_node.peer_id in alice.peers
        # It is handed what it is nearest to.
        await trio.sleep(30)
        assert len(carol._state.store) >= held
