"""Upkeep: newcomers are handed records, the dead are forgotten, the leaving say so."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from p2p.dht import Dht, DhtConfig, open_dht, owned_subkey
from p2p.dht.key import record_key
from tests.p2p.dht.swarms import QUICK, Liar, open_swarm

FEW = replace(QUICK, replicas=2, read_replicas=1)


def holders(dhts: list[Dht]) -> int:
    """How many nodes hold anything."""
    return sum(len(dht._state.store) > 0 for dht in dhts)


async def fill(dht: Dht, count: int = 20, *, ttl_s: float = 3000) -> list[str]:
    """Put so many records."""
    keys = [f"key{index}" for index in range(count)]
    for key in keys:
        await dht.put(key, key.encode(), ttl_s=ttl_s)
    return keys


async def test_a_newcomer_is_handed_what_it_is_near_to(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        await swarm.add("bob")
        await fill(alice)
        _, carol = await swarm.add("carol")
        await trio.sleep(5)
        assert len(carol._state.store) == 20


@pytest.mark.slow
async def test_a_crowd_of_newcomers_does_not_bury_the_records(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        keys = await fill(alice)
        dhts = [(await swarm.add())[1] for _ in range(30)]
        await trio.sleep(5)
        for index, key in enumerate(keys):
            assert await dhts[index].get(key) is not None


async def test_records_survive_when_all_first_holders_die_one_by_one(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        first = [await swarm.add(config=FEW) for _ in range(3)]
        keys = await fill(first[0][1])
        later = [await swarm.add(config=FEW) for _ in range(3)]
        for node, _ in first:
            await trio.sleep(700)
            swarm.network.crash(node.peer_id)
        await trio.sleep(30)
        for key in keys:
            entry = await later[0][1].get(key)
            assert entry is not None
            assert entry.value == key.encode()
            assert 700 < entry.remaining_s < 3000 - 2100


async def test_republishing_does_not_prolong_a_life(autojump_clock: MockClock) -> None:
    config = replace(QUICK, republish_s=20.0)
    async with open_swarm() as swarm:
        dhts = [(await swarm.add(config=config))[1] for _ in range(4)]
        await fill(dhts[0], 5, ttl_s=300)
        await trio.sleep(299)
        assert holders(dhts) == 4
        await trio.sleep(15)
        assert holders(dhts) == 0


async def test_the_dead_are_forgotten(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        bob_node, _ = await swarm.add("bob")
        await swarm.add("carol")
        assert bob_node.peer_id in alice.peers
        swarm.network.crash(bob_node.peer_id)
        await trio.sleep(600)
        assert bob_node.peer_id not in alice.peers


async def test_nobody_is_forgotten_in_a_partition(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(4)]
        swarm.network.partition([nodes[0][0].peer_id])
        await trio.sleep(1000)
        assert len(nodes[0][1].peers) == 3
        swarm.network.heal()
        await trio.sleep(700)
        for _, dht in nodes:
            assert len(dht.peers) == 3


async def test_leaving_hands_records_on_and_says_farewell(autojump_clock: MockClock) -> None:
    config = DhtConfig(replicas=2, read_replicas=1)
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice", config)
        _, bob = await swarm.add("bob", config)
        keys = await fill(alice)
        # Too late for a hand-over by the others: carol leaves as soon as she has the records.
        async with (
            swarm.network.open_node("carol") as node,
            open_dht(node, config, swarm.initial_peers) as carol,
        ):
            await fill(carol)
            assert node.peer_id in alice.peers
        assert node.peer_id not in (*alice.peers, *bob.peers)
        await trio.sleep(1)
        assert [len(dht._state.store) for dht in (alice, bob)] == [len(keys)] * 2


async def test_a_farewell_is_short_even_when_nobody_hears_it(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        await swarm.add("alice")
        async with (
            swarm.network.open_node("bob") as node,
            open_dht(node, DhtConfig(farewell_s=2.0), swarm.initial_peers) as bob,
        ):
            await fill(bob)
            swarm.network.freeze(swarm.nodes[0].peer_id)
            left_at_s = trio.current_time()
        assert trio.current_time() - left_at_s <= 2.01


async def test_a_swarm_of_two_survives_the_restart_of_its_first_node(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        first, _ = await swarm.add("alice")
        second, bob = await swarm.add("bob")
        swarm.network.crash(first.peer_id)
        await trio.sleep(300)
        # She comes back under her old identity, knowing nobody.
        async with (
            swarm.network.open_node("alice", identity=first.identity) as node,
            open_dht(node, QUICK) as alice,
        ):
            await trio.sleep(200)
            assert bob.peers == (first.peer_id,)
            assert alice.peers == (second.peer_id,)


async def test_a_reader_mends_a_replica_that_lags_behind(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(4)]
        node, alice = nodes[0]
        subkey = owned_subkey(node.peer_id)
        await alice.put("k", b"old", subkey=subkey, ttl_s=600)
        lost_node, lost = nodes[3]
        swarm.network.partition([lost_node.peer_id])
        report = await alice.put("k", b"new", subkey=subkey, ttl_s=600)
        assert report.replicas == 3
        swarm.network.heal()
        await trio.sleep(60)
        # The lost one itself asks others: it neither returns nor keeps what is old.
        entry = await lost.get("k", subkey=subkey)
        assert entry is not None
        assert entry.value == b"new"
        await trio.sleep(1)
        held = lost._state.store.get(record_key("k"), subkey, trio.current_time())
        assert held is not None
        assert held.record.value == b"new"


async def test_a_replica_that_missed_a_record_is_given_it_again(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add()
        await swarm.add()
        deaf = Liar(deaf_to=1)
        await swarm.add_liar(deaf)
        report = await alice.put("k", b"v", ttl_s=600)
        assert report.replicas == 2
        await trio.sleep(1)
        assert deaf.heard_of == 1
