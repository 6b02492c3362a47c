"""Lookups in small worlds of 8-bit keys: they find the nearest, whoever fails or lies."""

import random
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.contact import Contact
from p2p.dht.lookup import ADDRESSES_MAX, CANDIDATES_MAX, QUERIES_MAX, Lookup
from p2p.dht.routing import RoutingTable

OWN = PeerId("own")
WIDTH = 4
STALL_S = 1.0


def contact(key: int) -> Contact:
    return Contact(PeerId(f"peer{key:03}"), key)


@dataclass
class World:
    """Nodes by key, each with a routing table that knows a fair part of the others."""

    tables: dict[int, RoutingTable]
    dead: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    liars: set[int] = field(default_factory=set)
    values: dict[int, Hashable] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: set[int], rng: random.Random) -> "World":
        tables = {}
        for key in sorted(keys):
            tables[key] = RoutingTable(key, bucket_size=WIDTH, bits=8)
            for other in rng.sample(sorted(keys), len(keys)):
                tables[key].on_seen(contact(other), 0.0)
        return cls(tables)

    def answer(self, key: int, target: int) -> list[Contact]:
        if key in self.liars:
            # Peers that do not exist, as near to the target as can be.
            return [contact(target ^ offset) for offset in range(8)]
        return self.tables[key].nearest(target, WIDTH + 3, 0.0)

    def run(self, lookup: Lookup, target: int) -> int:
        """Drive a lookup; returns how many times it stood still."""
        now_s, stalls = 0.0, 0
        while not lookup.done:
            asked = lookup.next_queries(now_s)
            for one in asked:
                exists = one.key in self.tables
                if exists and one.key in self.silent:
                    continue
                if not exists or one.key in self.dead:
                    lookup.on_failure(one.peer_id)
                else:
                    lookup.on_answer(
                        one.peer_id, self.answer(one.key, target), self.values.get(one.key)
                    )
            if not asked:
                assert lookup.deadline_s is not None
                now_s = lookup.deadline_s
                stalls += 1
                lookup.on_deadline(now_s)
        return stalls


def lookup_of(target: int, seeds: list[Contact], **options: object) -> Lookup:
    settings: dict[str, object] = {"width": WIDTH, "parallelism": 3, "stall_s": STALL_S}
    return Lookup(target, seeds, own_id=OWN, **(settings | options))  # type: ignore[arg-type]


worlds = st.sets(st.integers(0, 255), min_size=8, max_size=120)


def nearest(keys: set[int], target: int) -> list[int]:
    return sorted(keys, key=lambda key: key ^ target)[:WIDTH]


@given(worlds, st.integers(0, 255), st.integers())
def test_a_lookup_finds_the_nearest_of_all(keys: set[int], target: int, seed: int) -> None:
    rng = random.Random(seed)
    world = World.of(keys, rng)
    lookup = lookup_of(target, [contact(rng.choice(sorted(keys)))])
    assert world.run(lookup, target) == 0
    assert [c.key for c in lookup.answered()][:WIDTH] == nearest(keys, target)


@given(worlds, st.integers(0, 255), st.integers())
def test_a_fifth_that_is_dead_or_silent_does_not_matter(
    keys: set[int], target: int, seed: int
) -> None:
    rng = random.Random(seed)
    world = World.of(keys, rng)
    lost = rng.sample(sorted(keys), len(keys) // 5)
    world.dead, world.silent = set(lost[::2]), set(lost[1::2])
    alive = keys - set(lost)
    seeds = [contact(key) for key in rng.sample(sorted(alive), 3)]
    lookup = lookup_of(target, seeds)
    assert world.run(lookup, target) <= len(world.silent)
    assert {c.key for c in lookup.answered()} <= alive
    assert next(c.key for c in lookup.answered()) == nearest(alive, target)[0]


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(0, 255), st.integers())
def test_liars_cost_time_but_not_the_result(target: int, seed: int) -> None:
    rng = random.Random(seed)
    keys = set(rng.sample(range(256), 60))
    world = World.of(keys, rng)
    world.liars = set(rng.sample(sorted(keys), 9))
    honest = keys - world.liars
    lookup = lookup_of(target, [contact(key) for key in rng.sample(sorted(honest), 3)])
    world.run(lookup, target)
    found = {c.key for c in lookup.answered()}
    assert nearest(honest, target)[0] in found
    assert lookup.queries < QUERIES_MAX


def test_endless_inventions_come_to_an_end() -> None:
    lookup = lookup_of(0, [contact(255)])
    invented = 10**6
    now_s = 0.0
    while not lookup.done:
        for one in lookup.next_queries(now_s):
            invented -= 20
            lookup.on_answer(one.peer_id, [contact(invented + i) for i in range(20)])
    assert lookup.queries == QUERIES_MAX


def test_no_more_than_parallelism_are_asked_at_once() -> None:
    lookup = lookup_of(0, [contact(key) for key in range(10)], parallelism=2)
    assert len(lookup.next_queries(0.0)) == 2
    assert lookup.next_queries(0.0) == []
    lookup.on_answer(contact(0).peer_id, [])
    assert [c.key for c in lookup.next_queries(0.0)] == [2]


def test_a_stalled_peer_frees_its_place_and_may_still_answer() -> None:
    lookup = lookup_of(0, [contact(1), contact(2)], parallelism=1)
    assert [c.key for c in lookup.next_queries(0.0)] == [1]
    assert lookup.deadline_s == STALL_S
    lookup.on_deadline(STALL_S)
    assert [c.key for c in lookup.unanswered] == [1]
    assert [c.key for c in lookup.next_queries(STALL_S)] == [2]
    lookup.on_answer(contact(1).peer_id, [contact(3)])
    assert not lookup.done
    lookup.on_answer(contact(2).peer_id, [])
    assert [c.key for c in lookup.next_queries(STALL_S)] == [3]
    lookup.on_failure(contact(3).peer_id)
    assert lookup.done
    assert [c.key for c in lookup.answered()] == [1, 2]


def test_the_only_peer_is_waited_for() -> None:
    lookup = lookup_of(0, [contact(1)])
    lookup.next_queries(0.0)
    lookup.on_deadline(STALL_S)
    assert not lookup.done
    lookup.on_failure(contact(1).peer_id)
    assert lookup.done


def test_an_empty_table_ends_at_once() -> None:
    lookup = lookup_of(0, [])
    assert lookup.done
    assert lookup.answered() == []


def test_unasked_late_and_repeated_answers_are_ignored() -> None:
    lookup = lookup_of(0, [contact(1), contact(2)])
    lookup.on_answer(contact(1).peer_id, [contact(9)])
    lookup.on_failure(contact(77).peer_id)
    assert len(lookup.next_queries(0.0)) == 2
    lookup.on_answer(contact(1).peer_id, [])
    lookup.on_answer(contact(1).peer_id, [contact(9)])
    lookup.on_failure(contact(1).peer_id)
    assert [c.key for c in lookup.answered()] == [1]


def test_neither_we_nor_the_shunned_are_asked() -> None:
    shunned = contact(1).peer_id
    lookup = lookup_of(0, [contact(1), Contact(OWN, 5)], avoid=lambda peer: peer == shunned)
    assert lookup.done


def test_a_value_is_found_when_enough_holders_agree() -> None:
    seeds = [contact(key) for key in range(4)]
    lookup = lookup_of(0, seeds, holders_wanted=2, parallelism=4)
    lookup.next_queries(0.0)
    lookup.on_answer(contact(0).peer_id, [], "old")
    lookup.on_answer(contact(1).peer_id, [], "new")
    assert not lookup.done
    lookup.on_answer(contact(2).peer_id, [], "new")
    assert lookup.done


def test_our_own_copy_counts_as_a_holder() -> None:
    lookup = lookup_of(0, [contact(1), contact(2)], holders_wanted=2, own_version="v")
    lookup.next_queries(0.0)
    lookup.on_answer(contact(1).peer_id, [], "v")
    assert lookup.done


def test_former_replicas_that_agree_do_not_end_a_search() -> None:
    """They hold what the owner has replaced since; the nearest, whom they name, hold the new."""
    former = [contact(key) for key in (20, 21, 22)]
    lookup = lookup_of(0, former, holders_wanted=2, parallelism=3)
    lookup.next_queries(0.0)
    nearest_four = [contact(key) for key in (1, 2, 3, 4)]
    for one in former:
        lookup.on_answer(one.peer_id, nearest_four, "old")
    assert not lookup.done
    assert {one.key for one in lookup.next_queries(0.0)} == {1, 2, 3}
    lookup.on_answer(contact(1).peer_id, [], "new")
    assert not lookup.done
    lookup.on_answer(contact(2).peer_id, [], "new")
    assert lookup.done


@given(worlds, st.integers(0, 255), st.integers())
def test_a_value_at_the_nearest_is_always_found(keys: set[int], target: int, seed: int) -> None:
    rng = random.Random(seed)
    world = World.of(keys, rng)
    holders = nearest(keys, target)
    world.values = {key: "v" for key in holders}
    lookup = lookup_of(target, [contact(rng.choice(sorted(keys)))], holders_wanted=2)
    world.run(lookup, target)
    assert len({c.key for c in lookup.answered()} & set(holders)) >= 2


def test_a_peer_named_with_wrong_addresses_is_asked_at_all_of_them() -> None:
    lookup = lookup_of(0, [contact(8), contact(9)], parallelism=2)
    lookup.next_queries(0.0)
    name = contact(1).peer_id
    lookup.on_answer(contact(8).peer_id, [Contact(name, 1, ("/wrong",))])
    lookup.on_answer(contact(9).peer_id, [Contact(name, 1, ("/right",))])
    assert lookup.next_queries(0.0) == [Contact(name, 1, ("/wrong", "/right"))]


def test_a_farther_peer_takes_a_place_of_a_crowded_range_only() -> None:
    crowd = [Contact(PeerId(f"crowd{k}"), k, (f"/ip4/20.0.0.{k}/tcp/1",)) for k in (1, 2, 3, 4)]
    others = [Contact(PeerId(f"other{k}"), k, (f"/ip4/20.0.{k}.1/tcp/1",)) for k in (50, 51, 52)]
    lookup = lookup_of(0, crowd, parallelism=1)
    assert lookup.next_queries(0.0) == crowd[:1]
    lookup.on_answer(crowd[0].peer_id, others)
    assert lookup.next_queries(0.0) == crowd[1:2]
    # Two of the range, and the nearest two others: the front is complete without anybody else.
    lookup.on_answer(crowd[1].peer_id, [contact(60)])
    assert lookup.next_queries(0.0) == others[:1]
    # Whoever fails leaves its place to the next in line.
    lookup.on_failure(others[0].peer_id)
    assert lookup.next_queries(0.0) == others[1:2]
    lookup.on_answer(others[1].peer_id, [contact(40)])
    assert [c.key for c in lookup.next_queries(0.0)] == [40]
    lookup.on_answer(contact(40).peer_id, [])
    assert lookup.done


def test_a_liar_does_not_crowd_out_the_true_address() -> None:
    lookup = lookup_of(0, [contact(8), contact(9), contact(10)])
    lookup.next_queries(0.0)
    wrong = tuple(f"/wrong{index}" for index in range(8))
    for namer, addresses in ((8, wrong), (9, ("/right",)), (10, wrong[::-1])):
        lookup.on_answer(contact(namer).peer_id, [Contact(contact(1).peer_id, 1, addresses)])
    (one,) = lookup.next_queries(0.0)
    assert one.addresses[:3] == ("/wrong0", "/right", "/wrong7")
    assert len(one.addresses) == ADDRESSES_MAX


def test_a_full_lookup_forgets_the_doubtful_first() -> None:
    lookup = lookup_of(0, [contact(252), contact(253)], width=8)
    liar, honest = lookup.next_queries(0.0)
    invented = [Contact(PeerId(f"invented{key}"), key) for key in range(CANDIDATES_MAX)]
    lookup.on_answer(liar.peer_id, invented)
    for one in [*lookup.next_queries(0.0), *lookup.next_queries(0.0)]:
        lookup.on_failure(one.peer_id)
    lookup.on_failure(lookup.next_queries(0.0)[0].peer_id)
    true = [Contact(PeerId(f"true{key}"), key) for key in range(1000, 1020)]
    lookup.on_answer(honest.peer_id, true)
    assert set(true) <= set(lookup.known)
