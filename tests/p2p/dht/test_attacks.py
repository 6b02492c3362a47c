"""What attackers gain against a small swarm, and what they do not: the page's table of threats."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p import Identity, PeerId, rpc_client
from p2p.dht import Dht, DhtConfig, PutItem, PutReport, StoreLimits, owned_subkey, schema
from p2p.dht.key import distance, node_key, record_key
from p2p.dht.record import CLOCK_SLACK_S
from p2p.dht.state import HAND_OVERS_PER_RANGE
from tests.p2p.dht.swarms import Liar, Swarm, open_swarm

GROUND = 2000
"""Keys that an attacker makes to get near: a tenth of a second's work."""
LIFE_S = 60.0


def ground_near(key: str, count: int, rng_swarm: Swarm) -> list[Identity]:
    """So many identities that sit nearer to a key than almost anybody."""
    rng = rng_swarm.network.rng
    made = [Identity.generate(rng) for _ in range(GROUND)]
    made.sort(key=lambda one: distance(node_key(one.peer_id), record_key(key)))
    return made[:count]


async def add_ground_liars(swarm: Swarm, key: str, count: int, liar: Liar) -> list[PeerId]:
    """Liars around a key, that all know and say the same."""
    placed = []
    for identity in ground_near(key, count, swarm):
        node = await swarm.add_liar(liar, identity=identity)
        placed.append(node.peer_id)
    return placed


async def put_twice(dht: Dht, subkey: str) -> tuple[PutReport, PutReport]:
    first = await dht.put("k", b"first", subkey=subkey, ttl_s=LIFE_S)
    return first, await dht.put("k", b"second", subkey=subkey, ttl_s=LIFE_S)


async def test_two_of_five_around_a_key_hide_nothing(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        owner, dht = await swarm.add("owner")
        for _ in range(9):
            await swarm.add()
        _, reader = await swarm.add("reader", client_mode=True)
        placed = await add_ground_liars(swarm, "k", 2, Liar(stale=True))
        subkey = owned_subkey(owner.peer_id)
        await put_twice(dht, subkey)
        trace = await reader.trace("k", subkey=subkey)
        # They got the places that they wanted.
        assert set(trace.replicas[:2]) == set(placed)
        entry = await reader.get("k", subkey=subkey)
        assert entry is not None
        assert entry.value == b"second"


@pytest.mark.slow
async def test_three_of_five_hold_a_version_back_for_a_bounded_time(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        owner, dht = await swarm.add("owner")
        for _ in range(9):
            await swarm.add()
        _, reader = await swarm.add("reader", client_mode=True)
        await add_ground_liars(swarm, "k", 3, Liar(stale=True))
        subkey = owned_subkey(owner.peer_id)
        first, second = await put_twice(dht, subkey)
        # What is not promised: the three agree.
        entry = await reader.get("k", subkey=subkey)
        assert entry is not None
        assert entry.sequence in (first.sequence, second.sequence)
        # What is: its age by the wall clock ends it, whatever life they say is left of it.
        await trio.sleep(LIFE_S + CLOCK_SLACK_S + 1)
        renewed = await dht.put("k", b"third", subkey=subkey, ttl_s=LIFE_S)
        later = await reader.get("k", subkey=subkey)
        assert later is not None
        assert later.sequence == renewed.sequence


@pytest.mark.slow
async def test_all_five_around_a_key_can_hide_it_but_not_forge_it(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        owner, dht = await swarm.add("owner")
        for _ in range(9):
            await swarm.add()
        _, reader = await swarm.add("reader", client_mode=True)
        subkey = owned_subkey(owner.peer_id)
        forgery = schema.WireRecord(subkey, b"lie", 60_000, 2**60, 60_000, 2**40, bytes(64))
        await add_ground_liars(swarm, "k", 5, Liar(forgery=forgery))
        await dht.put("k", b"truth", subkey=subkey, ttl_s=LIFE_S)
        entry = await reader.get("k", subkey=subkey)
        assert entry is None or entry.value == b"truth"


@pytest.mark.slow
async def test_a_flood_through_many_identities_is_bounded(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        limits = StoreLimits(total_bytes_max=2**18)
        victim, dht = await swarm.add("victim", DhtConfig(farewell_s=0, store=limits))
        value = bytes(4_000)
        refused = 0
        for number in range(6):
            _, attacker = await swarm.add(f"attacker{number}", client_mode=True)
            for index in range(70):
                report = await attacker.put(f"{number}/{index}", value, ttl_s=3600)
                refused += victim.peer_id in report.refused
        assert dht.stats.record_bytes <= limits.total_bytes_max
        assert dht.stats.refused == refused > 0
        # Nobody has the whole of it: each identity's share is at most the evenest one, and one.
        shares = [share.size_bytes for share in dht._state.store.shares.all()]
        assert max(shares) <= limits.total_bytes_max / len(shares) + 2 * (len(value) + 512)


async def test_a_dictionary_filled_by_one_stranger_still_shows_what_is_signed(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        await swarm.add("bob")
        owner, dht = await swarm.add("owner")
        subkey = owned_subkey(owner.peer_id)
        await dht.put("run/progress", b"v", subkey=subkey, ttl_s=LIFE_S)
        _, mallory = await swarm.add("mallory", client_mode=True)
        # They sort before anything that is signed, and are more than a reader is ready to turn.
        flood = [
            PutItem(key="run/progress", value=bytes(16_000), subkey=f"!{index:04}", ttl_s=LIFE_S)
            for index in range(400)
        ]
        reports = await mallory.put_many(flood)
        assert reports[0].replicas == 2
        _, newcomer = await swarm.add("newcomer", client_mode=True)
        assert subkey in await newcomer.get_dictionary("run/progress")
        # Nor is there no room for another's.
        report = await newcomer.put(
            "run/progress", b"w", subkey=owned_subkey(newcomer._state.node.peer_id), ttl_s=LIFE_S
        )
        assert report.replicas == 2


async def test_coming_and_going_costs_the_others_little(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        node, bob = await swarm.add("bob", host="9.9.9.9")
        await bob.put("k", b"v", ttl_s=3000)
        given = 0
        for number in range(HAND_OVERS_PER_RANGE + 16):
            liar = Liar()
            async with (
                swarm.network.open_node(f"m{number}", host="6.6.6.6") as mallory,
                liar.service().serving(mallory),
            ):
                await mallory.connect_address(node.addresses[0])
                calls = rpc_client(mallory, schema.SERVICE, schema.MAJOR)
                bare = tuple(a.removesuffix(f"/p2p/{mallory.peer_id}") for a in mallory.addresses)
                for _ in range(2):
                    await calls.call(node.peer_id, schema.PING, schema.Ping(bare), timeout_s=5)
                    await trio.sleep(1.5)
                    await calls.call(node.peer_id, schema.LEAVE, schema.Leave(), timeout_s=5)
            given += liar.given
        # All this takes three minutes, in which the range is granted some more.
        assert HAND_OVERS_PER_RANGE <= given <= HAND_OVERS_PER_RANGE + 10


@pytest.mark.slow
async def test_who_has_one_range_gets_two_places_alone_or_among_many_keys(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        crowd = ground_near("k", 6, swarm)
        dhts = [(await swarm.add(f"honest{n}", host=f"{20 + n}.1.1.1"))[1] for n in range(6)]
        dhts += [
            (await swarm.add("of the crowd", host=f"99.9.9.{n + 1}", identity=one))[1]
            for n, one in enumerate(crowd)
        ]
        # A client looks for the nodes; who knows everybody need not.
        _, client = await swarm.add("client", host="9.9.9.9", client_mode=True)
        for writer in (client, dhts[0]):
            for value, others in ((b"alone", 0), (b"among many", 20)):
                items = [PutItem(key=f"other{n}", value=value, ttl_s=LIFE_S) for n in range(others)]
                items.append(PutItem(key="k", value=value, ttl_s=2 * LIFE_S + others))
                assert (await writer.put_many(items))[-1].replicas == 5
                holding = [value in held_by(dht) for dht in dhts]
                assert (sum(holding[:6]), sum(holding[6:])) == (3, 2)
                alone, among_many = await client.get("k"), await client.get_many(["k", "other0"])
                assert alone is not None
                assert alone.value == among_many["k"].value == value
                for dht in dhts:
                    dht._state.forget_records()


def held_by(dht: Dht) -> list[bytes]:
    held = dht._state.store.get(record_key("k"), None, trio.current_time())
    return [held.record.value] if held is not None else []


async def test_false_addresses_do_not_make_one_range_many(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        alice, dht = await swarm.add("alice", host="9.9.9.9")
        for number in range(5):
            await swarm.add(f"honest{number}", host=f"{20 + number}.1.1.1")
        liars = []
        for number, identity in enumerate(ground_near("k", 6, swarm)):
            liar = Liar()
            host = f"99.9.9.{number + 1}"
            node = await swarm.add_outsider("liar", liar, host=host, identity=identity)
            await node.connect_address(alice.addresses[0])
            calls = rpc_client(node, schema.SERVICE, schema.MAJOR)
            says = (f"/ip4/{40 + number}.1.1.1/tcp/1",)
            await calls.call(alice.peer_id, schema.PING, schema.Ping(says), timeout_s=5)
            liars.append(liar)
        assert (await dht.put("k", b"v", ttl_s=LIFE_S)).replicas == 5
        assert sum(liar.heard_of for liar in liars) == 2
