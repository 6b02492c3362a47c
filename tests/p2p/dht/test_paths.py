"""Disjoint paths: no peer is asked twice, and a liar leads one path astray only."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.contact import Contact
from p2p.dht.paths import DisjointLookup, paths_for
from tests.p2p.dht.test_lookup import OWN, STALL_S, WIDTH, World, contact, nearest

worlds = st.sets(st.integers(0, 255), min_size=8, max_size=120)


def search_of(target: int, seeds: list[Contact], paths: int = 2) -> DisjointLookup:
    return DisjointLookup(
        target, seeds, paths=paths, own_id=OWN, width=WIDTH, parallelism=3, stall_s=STALL_S
    )


def run(search: DisjointLookup, world: World, target: int) -> list[int]:
    """Drive it; returns whom it asked, in order."""
    asked: list[int] = []
    now_s = 0.0
    while not search.done:
        batch = search.next_queries(now_s)
        for one in batch:
            asked.append(one.key)
            if one.key in world.silent:
                continue
            if one.key not in world.tables:
                search.on_failure(one.peer_id)
            else:
                search.on_answer(one.peer_id, world.answer(one.key, target))
        if not batch:
            assert search.deadline_s is not None
            now_s = search.deadline_s
            search.on_deadline(now_s)
    return asked


@given(worlds, st.integers(0, 255), st.integers(), st.integers(1, 3))
def test_they_find_the_nearest_and_ask_nobody_twice(
    keys: set[int], target: int, seed: int, paths: int
) -> None:
    rng = random.Random(seed)
    world = World.of(keys, rng)
    seeds = [contact(key) for key in rng.sample(sorted(keys), 6)]
    search = search_of(target, seeds, paths)
    asked = run(search, world, target)
    assert len(asked) == len(set(asked)) == search.queries
    assert [one.key for one in search.answered()][:WIDTH] == nearest(keys, target)


def test_a_liar_on_one_path_hides_nothing_from_the_other() -> None:
    rng = random.Random(1)
    keys = set(rng.sample(range(16, 256), 60))
    # An accomplice of the liar sits nearest to the target, and knows accomplices only.
    liars = {0, 1, 2, 3}
    tables = World.of(keys, rng).tables
    target = 0

    def answer(key: int) -> list[Contact]:
        if key in liars:
            return [contact(one) for one in sorted(liars)]
        return tables[key].nearest(target, WIDTH + 3, 0.0)

    found = {}
    for paths in (1, 2):
        search = search_of(target, [contact(0), contact(max(keys))], paths)
        while not search.done:
            for one in search.next_queries(0.0):
                search.on_answer(one.peer_id, answer(one.key))
        found[paths] = {one.key for one in search.answered()} & set(nearest(keys, target))
    # A single path that asks the liars first stops at the four of them.
    assert len(found[1]) < WIDTH
    assert found[2] == set(nearest(keys, target))


def test_a_path_of_silent_peers_holds_nobody_up() -> None:
    world = World.of({8, 9, 10, 11, 200}, random.Random(1))
    world.silent = {200}
    search = search_of(0, [contact(8), contact(200)])
    search.next_queries(0.0)
    search.on_answer(contact(8).peer_id, [contact(9)])
    search.next_queries(0.0)
    search.on_answer(contact(9).peer_id, [])
    assert not search.done
    assert search.deadline_s == STALL_S
    search.on_deadline(STALL_S)
    assert search.done
    assert [one.key for one in search.silent] == [200]
    assert search.late == []


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    search = search_of(0, [contact(1)])
    search.on_answer(PeerId("stranger"), [contact(2)])
    search.on_failure(PeerId("stranger"))
    assert [one.key for one in search.next_queries(0.0)] == [1]


@pytest.mark.parametrize(("known", "paths"), [(0, 1), (20, 1), (21, 3)])
def test_more_than_one_path_is_for_swarms_that_we_do_not_know_whole(known: int, paths: int) -> None:
    assert paths_for(known, 20, 3) == paths
