"""Many keys at once, shared reads, and reads that may be a little old."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2p import RecordInvalid
from p2p.dht import Dht, PutItem, owned_subkey, schema
from p2p.dht.cache import Found, Name
from p2p.dht.key import record_key
from tests.p2p.dht.swarms import open_swarm


class Calls:
    """Counts the calls that a node makes, by method."""

    def __init__(self, dht: Dht) -> None:
        self.made: list[str] = []
        call = dht._client._call

        async def counted(contact: object, method: object, request: object) -> object:
            self.made.append(method.name)  # type: ignore[attr-defined]
            return await call(contact, method, request)  # type: ignore[arg-type]

        dht._client._call = counted  # type: ignore[method-assign,assignment]

    def take(self) -> dict[str, int]:
        """How many calls since the last time."""
        made, self.made = self.made, []
        return {name: made.count(name) for name in sorted(set(made))}


async def test_many_keys_cost_one_lookup_and_one_call_per_node(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        dhts = [(await swarm.add())[1] for _ in range(10)]
        # Newcomers have been greeted by then.
        await trio.sleep(5)
        calls = Calls(dhts[3])
        items = [PutItem(key=f"key{i}", value=b"%d" % i, ttl_s=60) for i in range(64)]
        reports = await dhts[3].put_many(items)
        assert [report.replicas for report in reports] == [5] * 64
        # In a swarm this small everybody knows everybody.
        assert calls.take() == {"store": 9}
        reader = Calls(dhts[7])
        found = await dhts[7].get_many([item.key for item in items] + ["absent", "key0"])
        assert {key: entry.value for key, entry in found.items()} == {
            item.key: item.value for item in items
        }
        made = reader.take()
        assert made.keys() == {"find_value"}
        # Some 65 x 3 / 10 keys at each node, and the absent one's last replicas.
        queries = 65 * 3 / schema.QUERIES_MAX
        assert made["find_value"] < queries + 9 + 2


@pytest.mark.slow
async def test_in_a_larger_swarm_a_lookup_serves_many_keys(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        dhts = [(await swarm.add())[1] for _ in range(30)]
        await trio.sleep(5)
        calls = Calls(dhts[3])
        items = [PutItem(key=f"key{i}", value=b"%d" % i, ttl_s=60) for i in range(64)]
        reports = await dhts[3].put_many(items)
        assert [report.replicas for report in reports] == [5] * 64
        made = calls.take()
        # A lookup for each key would ask five nodes and more, 64 times.
        assert made["find_node"] < 64 * 2
        assert made["store"] < 64
        found = await dhts[20].get_many(item.key for item in items)
        assert len(found) == 64


async def test_many_keys_are_found_though_nodes_die(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(12)]
        _, alice = nodes[0]
        items = [PutItem(key=f"key{i}", value=b"%d" % i, ttl_s=600) for i in range(40)]
        await alice.put_many(items)
        for node, _ in nodes[8:]:
            swarm.network.crash(node.peer_id)
        found = await nodes[1][1].get_many(item.key for item in items)
        assert len(found) == 40
        reports = await nodes[2][1].put_many(
            [PutItem(key=item.key, value=b"new", ttl_s=700) for item in items]
        )
        assert all(report.replicas == 5 for report in reports)


async def test_subkeys_of_one_dictionary_are_put_together(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        node, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        subkey = owned_subkey(node.peer_id)
        calls = Calls(alice)
        items = [
            PutItem(key="run", value=b"free", subkey="free", ttl_s=60),
            PutItem(key="run", value=b"mine", subkey=subkey, ttl_s=60),
        ]
        free, mine = await alice.put_many(items)
        assert (free.replicas, free.sequence, mine.replicas) == (2, 0, 2)
        assert mine.sequence > 0
        assert calls.take() == {"store": 1}
        assert len(await bob.get_dictionary("run")) == 2
        assert await alice.put_many([]) == []
        assert await alice.get_many([]) == {}


async def test_one_bad_item_and_nothing_is_put(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        good = PutItem(key="good", value=b"v", ttl_s=60)
        with pytest.raises(RecordInvalid, match="key"):
            await alice.put_many([good, PutItem(key="", value=b"v", ttl_s=60)])
        assert await alice.get("good") is None


async def test_reads_that_begin_together_are_one(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        await alice.put("k", b"v", ttl_s=60)
        calls = Calls(bob)
        values: list[bytes] = []

        async def read() -> None:
            entry = await bob.get("k")
            assert entry is not None
            values.append(entry.value)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        assert values == [b"v"] * 50
        assert calls.take() == {"find_value": 1}


async def test_a_reader_that_gives_up_does_not_take_the_others_along(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        await alice.put("k", b"v", ttl_s=60)
        got: list[bytes] = []

        async def read() -> None:
            entry = await bob.get("k")
            assert entry is not None
            got.append(entry.value)

        async def read_and_give_up(scope: trio.CancelScope) -> None:
            with scope:
                await bob.get("k")

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(read_and_give_up, scope)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(read)
            nursery.start_soon(read)
            scope.cancel()
        assert got == [b"v", b"v"]


async def test_a_read_begun_after_a_put_sees_it(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        bob_node, _ = await swarm.add("bob")
        await alice.put("k", b"old", ttl_s=60)
        swarm.network.freeze(bob_node.peer_id)
        async with trio.open_nursery() as nursery:
            # It asks bob, who will not answer for long.
            nursery.start_soon(alice.get, "absent")
            nursery.start_soon(alice.get, "k")
            await trio.sleep(0.1)
            await alice.put("k", b"new", ttl_s=61)
            entry = await alice.get("k")
            assert entry is not None
            assert entry.value == b"new"


async def test_a_little_old_is_cheap_and_in_use_stays_fresh(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        await trio.sleep(5)
        calls = Calls(bob)
        assert await bob.get("k", max_age_s=4) is None
        await alice.put("k", b"v", ttl_s=600)
        assert calls.take() == {"find_value": 1}
        assert await bob.get("k", max_age_s=4) is None
        assert calls.take() == {}
        # It was used, so it is read again before it is too old: nobody waits.
        await trio.sleep(4)
        assert calls.take() == {"find_value": 1}
        entry = await bob.get("k", max_age_s=4)
        assert entry is not None
        assert calls.take() == {}
        await trio.sleep(100)
        # Used once more, then let go.
        assert calls.take().get("find_value", 0) == 1
        await bob.put("k", b"mine", ttl_s=700)
        calls.take()
        entry = await bob.get("k", max_age_s=4)
        assert entry is not None
        assert entry.value == b"mine"
        found = await bob.get_many(["k", "other"], max_age_s=4)
        assert found.keys() == {"k"}


async def test_a_read_that_began_before_our_own_put_answers_nobody_after_it(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        for _ in range(3):
            await swarm.add()
        _, alice = await swarm.add("alice")
        await alice.put("k", b"old", ttl_s=60)
        ask_replicas = alice._reader._ask_replicas

        async def ask_slowly(name: Name) -> Found:
            found = await ask_replicas(name)
            await trio.sleep(10)
            return found

        alice._reader._ask_replicas = ask_slowly  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(alice.get, "k", max_age_s=30))
            await trio.sleep(5)
            alice._reader._ask_replicas = ask_replicas  # type: ignore[method-assign]
            await alice.put("k", b"new", ttl_s=600)
            entry = await alice.get("k", max_age_s=30)
            assert entry is not None
            assert entry.value == b"new"
        entry = await alice.get("k", max_age_s=30)
        assert entry is not None
        assert entry.value == b"new"


async def test_many_keys_are_asked_for_again_when_their_holders_said_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        peers = [await swarm.add() for _ in range(8)]
        _, reader = await swarm.add("reader", client_mode=True)
        items = [PutItem(key=f"key{i}", value=b"v", ttl_s=600) for i in range(6)]
        await peers[0][1].put_many(items)
        holders = (await reader.trace("key0")).holders
        for peer_id in holders:
            swarm.network.freeze(peer_id)

        async def thaw() -> None:
            # The lookup for their neighbourhood has given them up by then.
            await trio.sleep(2.1)
            for peer_id in holders:
                swarm.network.thaw(peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thaw)
            found = await reader.get_many([item.key for item in items])
        assert found.keys() == {item.key for item in items}


async def test_holders_that_were_silent_are_given_what_was_put_once_they_wake(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        peers = [await swarm.add() for _ in range(8)]
        _, writer = await swarm.add("writer", client_mode=True)
        await writer.put("key0", b"old", ttl_s=600)
        # Newcomers have been handed all by then.
        await trio.sleep(5)
        holders = (await writer.trace("key0")).holders
        frozen, dht = next(one for one in peers if one[0].peer_id == holders[0])
        swarm.network.freeze(frozen.peer_id)
        reports = await writer.put_many(
            [PutItem(key=f"key{i}", value=b"new", ttl_s=700) for i in range(6)]
        )
        assert frozen.peer_id not in reports[0].refused
        swarm.network.thaw(frozen.peer_id)
        await trio.sleep(5)
        held = dht._state.store.get(record_key("key0"), None, trio.current_time())
        assert held is not None
        assert held.record.value == b"new"
