"""What strangers send: bad records, foreign subkeys, replays, floods, lies."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from prometheus_client import REGISTRY
from trio.testing import MockClock

from p2p import Identity, Node, PeerId, RefusedError, RpcClient, rpc_client
from p2p.dht import Dht, StoreLimits, owned_subkey, schema
from p2p.dht.key import key_to_bytes, record_key
from p2p.dht.record import Record, sign_record
from p2p.dht.schema import KeyRecords, Query, WireRecord, to_wire
from tests.p2p.dht.swarms import QUICK, Liar, Swarm, open_swarm

ALICE = Identity.generate(random.Random(7))
MALLORY = Identity.generate(random.Random(8))


@dataclass
class Scene:
    """Bob runs a DHT; mallory calls it with whatever she likes."""

    swarm: Swarm
    bob_node: Node
    bob: Dht
    calls: RpcClient

    async def store(self, *records: WireRecord, key: str = "k") -> list[schema.Answer]:
        """Offer bob these records."""
        request = schema.Store((), (KeyRecords(key, records),))
        answer = await self.calls.call(self.bob_node.peer_id, schema.STORE, request, timeout_s=5)
        return list(answer.answers)

    async def find(self, query: Query) -> schema.Found:
        """Ask bob for a value."""
        request = schema.FindValue((), (query,), 20)
        answer = await self.calls.call(
            self.bob_node.peer_id, schema.FIND_VALUE, request, timeout_s=5
        )
        return answer.found[0]

    def signed(self, value: bytes, sequence: int = 1, owner: Identity = ALICE) -> WireRecord:
        """A record as its owner signs it now, with a minute to live."""
        record = Record(
            key="k",
            subkey=owned_subkey(owner.peer_id),
            value=value,
            sequence=sequence,
            life_ms=60_000,
            signed_at_ms=int(self.bob_node.wall_time_s() * 1000),
        )
        return to_wire(sign_record(record, owner), 60)


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """Bob and mallory."""
    config = replace(QUICK, store=StoreLimits(records_per_peer_max=50))
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob", config)
        async with swarm.network.open_node("mallory", identity=MALLORY) as mallory:
            await mallory.connect_address(bob_node.addresses[0])
            yield Scene(swarm, bob_node, bob, rpc_client(mallory, schema.SERVICE, schema.MAJOR))
            assert swarm.network.handler_errors == []


async def test_one_bad_record_does_not_spoil_its_neighbours(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        good = scene.signed(b"good")
        bad = replace_wire(scene.signed(b"bad", owner=MALLORY), value=b"changed")
        before = refusals("invalid"), refusals("limit")
        answers = await scene.store(bad, WireRecord("free", b"x", 0), good)
        assert (refusals("invalid"), refusals("limit")) == (before[0] + 1, before[1] + 1)
        assert [answer.code for answer in answers] == [2, 2, 0]
        assert "owner" in answers[0].reason
        found = await scene.bob.get_dictionary("k")
        assert {entry.value for entry in found.values()} == {b"good"}


async def test_another_peers_subkey_cannot_be_written(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        forged = replace_wire(
            scene.signed(b"forged", owner=MALLORY), subkey=owned_subkey(ALICE.peer_id)
        )
        unsigned = WireRecord(owned_subkey(ALICE.peer_id), b"forged", 1000)
        assert [answer.code for answer in await scene.store(forged, unsigned)] == [2, 2]


async def test_a_signed_record_moved_to_another_key_is_refused(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        (answer,) = await scene.store(scene.signed(b"v"), key="other")
        assert answer.code == 2


async def test_an_old_version_does_not_come_back(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        old, new = scene.signed(b"old", 1), scene.signed(b"new", 2)
        assert [answer.code for answer in await scene.store(old, new)] == [0, 0]
        (answer,) = await scene.store(old)
        assert (answer.code, answer.sequence) == (1, 2)
        # Not even when the new one has expired, here or at a node that forgot both.
        await trio.sleep(120)
        assert (await scene.store(old))[0].code == 1
        await trio.sleep(900)
        (answer,) = await scene.store(old)
        assert answer.code == 2
        assert "signed" in answer.reason


async def test_what_claims_to_come_from_the_future_is_refused(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        record = Record(
            key="k",
            subkey=owned_subkey(ALICE.peer_id),
            value=b"v",
            sequence=1,
            life_ms=60_000,
            signed_at_ms=int((scene.bob_node.wall_time_s() + 1000) * 1000),
        )
        (answer,) = await scene.store(to_wire(sign_record(record, ALICE), 60))
        assert "future" in answer.reason


async def test_a_flood_is_bounded(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        answers = await scene.store(*(WireRecord(f"s{index}", b"v", 1000) for index in range(100)))
        assert [answer.code for answer in answers] == [0] * 50 + [2] * 50


async def test_a_flood_is_told_to_wait(autojump_clock: MockClock) -> None:
    limits = StoreLimits(offered_per_peer_burst=100, offered_per_peer_per_s=10)
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob", replace(QUICK, store=limits))
        _, carol = await swarm.add("carol")
        async with swarm.network.open_node("mallory") as mallory:
            await check_the_flood(swarm, bob_node, bob, mallory)
        # Others are heard as before.
        assert (await carol.put("k", b"v", ttl_s=60)).replicas == 2


def refusals(reason: str) -> float:
    """How many records were refused for this reason, in all tests."""
    return REGISTRY.get_sample_value("p2p_dht_refusals_total", {"reason": reason}) or 0.0


async def check_the_flood(swarm: Swarm, bob_node: Node, bob: Dht, mallory: Node) -> None:
    await mallory.connect_address(bob_node.addresses[0])
    scene = Scene(swarm, bob_node, bob, rpc_client(mallory, schema.SERVICE, schema.MAJOR))
    flood = [WireRecord(f"s{index}", b"v", 60_000) for index in range(150)]
    quota = refusals("quota")
    answers = await scene.store(*flood)
    assert [answer.code for answer in answers] == [0] * 100 + [2] * 50
    assert refusals("quota") == quota + 50
    assert "more records than a peer may" in answers[-1].reason
    await trio.sleep(2)
    answers = await scene.store(*flood)
    assert [answer.code for answer in answers].count(0) == 20
    # Who sends what is invalid is heard less.
    await trio.sleep(10)
    forged = replace_wire(scene.signed(b"v"), value=b"changed")
    answers = await scene.store(*[forged] * 5)
    assert ["owner" in answer.reason for answer in answers] == [True] * 5
    answers = await scene.store(*flood)
    assert [answer.code for answer in answers].count(0) == 20


async def test_many_signatures_at_once_are_checked_each(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        owners = [Identity.generate(random.Random(seed)) for seed in range(40)]
        records = [scene.signed(b"v", owner=owner) for owner in owners]
        records[5] = replace_wire(records[5], value=b"w")
        codes = [answer.code for answer in await scene.store(*records)]
        assert codes == [0] * 5 + [2] + [0] * 34


async def test_too_many_records_in_all_are_refused(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        record = WireRecord(None, b"", 1000)
        items = tuple(KeyRecords(f"{i}", (record,) * 257) for i in range(2))
        with pytest.raises(RefusedError, match="more than"):
            await scene.calls.call(
                scene.bob_node.peer_id, schema.STORE, schema.Store((), items), timeout_s=5
            )


async def test_out_of_range_messages_are_refused(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        with pytest.raises(RefusedError, match="invalid"):
            await scene.calls.call(
                scene.bob_node.peer_id,
                schema.FIND_NODE,
                schema.FindNode((), (b"short",), 5),
                timeout_s=5,
            )
        assert (await scene.find(Query(bytes(32)))).records == ()


async def test_callers_without_addresses_are_no_contacts(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        await scene.find(Query(bytes(32)))
        assert scene.bob.peers == ()
        request = schema.Ping(("/ip4/10.0.0.9/tcp/1",))
        await scene.calls.call(scene.bob_node.peer_id, schema.PING, request, timeout_s=5)
        assert scene.bob.peers == (MALLORY.peer_id,)
        # She is not named to herself.
        assert (await scene.find(Query(bytes(32)))).contacts == ()
        await scene.calls.call(scene.bob_node.peer_id, schema.LEAVE, schema.Leave(), timeout_s=5)
        assert scene.bob.peers == ()


async def test_a_page_of_a_dictionary_says_that_more_follows(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        for index in range(20):
            await scene.bob.put("k", bytes(10_000), subkey=f"s{index:02}", ttl_s=60)
        query = Query(key_to_bytes(record_key("k")), None, True)
        found = await scene.find(query)
        assert found.more
        assert [record.subkey for record in found.records] == [f"s{i:02}" for i in range(9)]
        rest = await scene.find(Query(query.key, None, True, "s08"))
        assert rest.records[0].subkey == "s09"


@pytest.mark.parametrize("kind", ["withholds", "stale", "forges", "foreign"])
async def test_a_lying_replica_changes_no_answer(kind: str, autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        owner, dht = await swarm.add("alice")
        for _ in range(3):
            await swarm.add()
        subkey = owned_subkey(owner.peer_id)
        forgeries = {
            "forges": WireRecord(subkey, b"lie", 1000, 2**60, 60_000, 2**40, bytes(64)),
            "foreign": WireRecord("free", b"lie", 1000),
        }
        await swarm.add_liar(Liar(stale=kind == "stale", forgery=forgeries.get(kind)))
        for value in (b"first", b"second"):
            await dht.put("k", value, subkey=subkey, ttl_s=60)
        _, reader = await swarm.add("bob")
        entry = await reader.get("k", subkey=subkey)
        assert entry is not None
        assert entry.value == b"second"


def replace_wire(record: WireRecord, **changes: object) -> WireRecord:
    """The record with some fields changed."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return WireRecord(**(fields | changes))


async def test_a_life_beyond_the_limit_is_refused_with_the_reason(
    autojump_clock: MockClock,
) -> None:
    async with open_scene() as scene:
        week_ms = 7 * 86_400_000
        endless = replace_wire(scene.signed(b"v"), remaining_ms=week_ms)
        answers = await scene.store(WireRecord(None, b"v", week_ms), endless)
        assert [answer.code for answer in answers] == [2, 2]
        assert "may live from 0 to 86400 s" in answers[0].reason
        assert "may live from 0 to 60 s" in answers[1].reason


async def test_a_giant_dictionary_stays_bounded_and_keeps_the_signed(
    autojump_clock: MockClock,
) -> None:
    config = replace(QUICK, store=StoreLimits(subkeys_per_key_max=20))
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob", config)
        async with swarm.network.open_node("mallory") as mallory:
            await mallory.connect_address(bob_node.addresses[0])
            calls = rpc_client(mallory, schema.SERVICE, schema.MAJOR)
            scene = Scene(swarm, bob_node, bob, calls)
            flood = [WireRecord(f"s{index:03}", b"v", 60_000) for index in range(100)]
            answers = await scene.store(*flood)
            assert [answer.code for answer in answers] == [0] * 20 + [2] * 80
            assert "as many as it may" in answers[-1].reason
            (answer,) = await scene.store(scene.signed(b"good"))
            assert answer.code == 0
        found = await bob.get_dictionary("k")
        assert len(found) == 20
        assert found[owned_subkey(ALICE.peer_id)].value == b"good"


async def test_a_reader_is_not_kept_busy_by_endless_pages(autojump_clock: MockClock) -> None:
    class Endless(Liar):
        """Says with each page that another follows."""

        pages = 0

        async def _on_find_value(
            self, caller: PeerId, request: schema.FindValue
        ) -> schema.FoundValues:
            Endless.pages += 1
            record = WireRecord(f"s{Endless.pages:09}", b"v", 60_000)
            found = schema.Found((), (record,), True, 1, 1)
            return schema.FoundValues(0, (found,) * len(request.queries))

    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        await swarm.add_liar(Endless())
        await alice.put("k", b"v", subkey="good", ttl_s=60)
        found = await alice.get_dictionary("k")
        assert found["good"].value == b"v"
        assert 1 < Endless.pages <= 64
        # What is incomplete is no base for reading on.
        before = Endless.pages
        await alice.get_dictionary("k")
        assert Endless.pages == 2 * before


async def test_many_ids_of_one_machine_displace_nobody_but_each_other(
    autojump_clock: MockClock,
) -> None:
    limits = StoreLimits(total_bytes_max=60_000)
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob", replace(QUICK, store=limits), host="9.9.9.9")
        async with swarm.network.open_node("carol", host="7.7.7.7") as carol:
            await carol.connect_address(bob_node.addresses[0])
            calls = rpc_client(carol, schema.SERVICE, schema.MAJOR)
            # An honest peer that holds much, as one that handed its records over.
            honest = [WireRecord(f"s{index:03}", bytes(200), 60_000) for index in range(40)]
            await Scene(swarm, bob_node, bob, calls).store(*honest, key="honest")
        for index in range(40):
            async with swarm.network.open_node(f"m{index}", host="6.6.6.6") as mallory:
                await mallory.connect_address(bob_node.addresses[0])
                calls = rpc_client(mallory, schema.SERVICE, schema.MAJOR)
                flood = [WireRecord(f"m{i:03}", bytes(200), 60_000) for i in range(20)]
                await Scene(swarm, bob_node, bob, calls).store(*flood, key=f"k{index}")
        assert len(await bob.get_dictionary("honest")) == 40
        assert bob._state.store.size_bytes <= 60_000


async def test_an_old_copy_gains_no_life_by_being_passed_on(autojump_clock: MockClock) -> None:
    async with open_scene() as scene:
        # Signed for a minute, 15 minutes and 50 seconds ago; said to have all of its life left.
        record = Record(
            key="k",
            subkey=owned_subkey(ALICE.peer_id),
            value=b"old",
            sequence=1,
            life_ms=60_000,
            signed_at_ms=int((scene.bob_node.wall_time_s() - 950) * 1000),
        )
        (answer,) = await scene.store(to_wire(sign_record(record, ALICE), 60))
        assert answer.code == 0
        assert len(await scene.bob.get_dictionary("k")) == 1
        await trio.sleep(11)
        assert await scene.bob.get_dictionary("k") == {}
