"""What nodes say of themselves, what operators read, and how a search went."""

from __future__ import annotations

import pytest
import trio
from prometheus_client import REGISTRY
from trio.testing import MockClock

from p2p import RefusedError, RpcService
from p2p.dht import HopOutcome, schema
from tests.p2p.dht.swarms import open_swarm


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_trace_finds_all_holders(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        members = [await swarm.add(f"peer{number}") for number in range(12)]
        _, reader = await swarm.add("reader", client_mode=True)
        report = await members[3][1].put("song", b"words", ttl_s=60)
        before = reader.stats
        trace = await reader.trace("song")
        # What is counted is who was asked, not how far away the nearest is.
        after = reader.stats
        assert after.search_hops - before.search_hops == len(trace.hops) > trace.depth
        assert set(trace.replicas) == set(trace.holders)
        assert len(trace.holders) == report.replicas == 5
        assert all(hop.took_s > 0 and hop.addresses for hop in trace.hops)
        assert 1 <= trace.depth <= 3
        nothing = await reader.trace("song", subkey="second")
        assert nothing.holders == ()
        assert {hop.outcome for hop in nothing.hops} <= {
            HopOutcome.CLOSER,
            HopOutcome.NONE_CLOSER,
            HopOutcome.NOT_AWAITED,
        }


async def test_a_trace_shows_whom_it_could_not_ask(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        members = [await swarm.add(f"peer{number}") for number in range(8)]
        _, reader = await swarm.add("reader", client_mode=True)
        await members[0][1].put("song", b"words", ttl_s=600)
        dead, frozen, *others = (await reader.trace("song")).holders
        swarm.network.crash(dead)
        swarm.network.freeze(frozen)
        trace = await reader.trace("song")
        outcomes = {hop.peer_id: hop.outcome for hop in trace.hops}
        assert outcomes[dead] is HopOutcome.UNREACHABLE
        # The search goes on without it after a second, and may be over before it is given up.
        assert outcomes[frozen] in (HopOutcome.TIMEOUT, HopOutcome.NOT_AWAITED)
        assert set(trace.holders) == set(others)
        assert set(trace.replicas).isdisjoint({dead, frozen})


async def test_a_dictionary_is_traced(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, writer = await swarm.add("writer")
        _, reader = await swarm.add("reader")
        for subkey in ("one", "two"):
            await writer.put("numbers", b"1", subkey=subkey, ttl_s=60)
        trace = await reader.trace("numbers", dictionary=True)
        assert [hop.outcome for hop in trace.hops] == [HopOutcome.FOUND]


async def test_a_node_says_what_it_holds_and_has_done(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        alice, dht = await swarm.add("alice")
        _, bobs = await swarm.add("bob")
        await bobs.put("first", b"1", ttl_s=60)
        await bobs.put("second", b"2", ttl_s=60)
        told = await bobs.stats_of(alice.peer_id)
        assert (told.records, told.stored, told.refused) == (2, 2, 0)
        assert (told.sampled_keys, told.replica_keys) == (2, 2)
        assert (told.contacts, told.confirmed) == (1, 1)
        assert told.stores == 2
        assert 0 < told.record_bytes < told.record_bytes_max
        assert told.find_nodes >= 1
        own = dht.stats
        assert (own.records, own.record_bytes) == (told.records, told.record_bytes)
        before = bobs.stats
        await bobs.get("third")
        after = bobs.stats
        assert (after.searches, after.search_hops) == (before.searches + 1, before.search_hops + 1)


async def test_one_that_is_too_old_to_say_keeps_its_place(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        alice, _ = await swarm.add("alice")
        _, bobs = await swarm.add("bob")
        # Serving the same protocol again takes the place of the handlers.
        async with RpcService(schema.SERVICE, schema.MAJOR).serving(alice):
            with pytest.raises(RefusedError):
                await bobs.stats_of(alice.peer_id)
            assert bobs.peers == (alice.peer_id,)


async def test_an_operator_reads_what_happened(autojump_clock: MockClock) -> None:
    names = ("p2p_dht_records", "p2p_dht_record_bytes", "p2p_dht_contacts")
    before = [value(name) for name in names]
    searches = value("p2p_dht_searches_total")
    offered = value("p2p_dht_offers_total", outcome="stored")
    refused = value("p2p_dht_refusals_total", reason="limit")
    pongs = value("p2p_dht_call_seconds_count", method="ping")
    pings = value("p2p_dht_requests_total", method="ping")
    async with open_swarm() as swarm:
        alice, _ = await swarm.add("alice")
        _, bobs = await swarm.add("bob")
        await bobs.put("first", b"1", ttl_s=60)
        assert value("p2p_dht_searches_total") > searches
        assert value("p2p_dht_search_hops_count") == value("p2p_dht_searches_total")
        assert value("p2p_dht_search_seconds_count") == value("p2p_dht_searches_total")
        assert value("p2p_dht_offers_total", outcome="stored") == offered + 1
        assert value("p2p_dht_requests_total", method="ping") > pings
        assert value("p2p_dht_call_seconds_count", method="ping") > pongs
        # One with wider limits than ours wants more of us than we give.
        request = schema.Store(
            (), (schema.KeyRecords("k", (schema.WireRecord("s", b"", 86_400_001),)),)
        )
        stored = await bobs._client._rpc.call(alice.peer_id, schema.STORE, request, timeout_s=5)
        assert stored.answers[0].code == 2
        assert value("p2p_dht_refusals_total", reason="limit") == refused + 1
        autojump_clock.jump(16)
        await bobs.get("first")
        during = [value(name) for name in names]
        assert [now - then for now, then in zip(during, before, strict=True)][::2] == [2, 2]
    assert [value(name) for name in names] == before


async def test_strangers_are_told_the_same_for_a_second(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob")
        _, alice = await swarm.add("alice")
        first = await alice.stats_of(bob_node.peer_id)
        await bob.put("k", b"v", ttl_s=600)
        assert bob.stats.records == 1
        assert await alice.stats_of(bob_node.peer_id) == first
        await trio.sleep(1)
        assert (await alice.stats_of(bob_node.peer_id)).records == 1
