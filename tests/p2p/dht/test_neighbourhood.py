"""Neighbourhoods: a covered key's nearest nodes are among those that the lookup heard."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.contact import Contact
from p2p.dht.neighbourhood import expected_bits, grouped, neighbourhood_of, shared_bits

keys = st.integers(0, 255)
swarms = st.sets(keys, min_size=1, max_size=100)


def contact(key: int) -> Contact:
    return Contact(PeerId(f"peer{key:03}"), key)


@given(swarms, keys, keys, st.integers(4, 12), st.integers(1, 4))
def test_what_is_covered_has_its_replicas_here(
    swarm: set[int], target: int, key: int, width: int, replicas: int
) -> None:
    heard = [contact(one) for one in sorted(swarm, key=lambda one: one ^ target)[:width]]
    near = neighbourhood_of(target, heard, width=width, replicas=replicas, bits=8)
    assert near.covers(target)
    if near.covers(key):
        nearest = sorted(swarm, key=lambda one: one ^ key)[:replicas]
        assert [one.key for one in near.nearest(key)[:replicas]] == nearest


def test_a_swarm_smaller_than_the_lookup_is_one_neighbourhood() -> None:
    near = neighbourhood_of(7, [contact(1), contact(200)], width=3, replicas=2, bits=8)
    assert all(near.covers(key) for key in range(256))


def test_a_full_swarm_has_neighbourhoods_of_half_a_lookup() -> None:
    heard = [contact(one) for one in range(20)]
    near = neighbourhood_of(0, heard, width=20, replicas=5, bits=8)
    assert [key for key in range(256) if near.covers(key)] == list(range(16))
    # Too few of them to be sure of all replicas: good for the target alone.
    near = neighbourhood_of(0, heard, width=20, replicas=17, bits=8)
    assert [key for key in range(256) if near.covers(key)] == [0]


def test_the_expected_size_follows_from_our_own_neighbours() -> None:
    everyone = [contact(key) for key in range(256)]
    assert expected_bits(0, everyone, 16, bits=8) == 4
    assert expected_bits(0, everyone[:10], 16, bits=8) == 0


@given(st.lists(keys), st.integers(0, 8))
def test_groups_share_their_first_bits(targets: list[int], bits: int) -> None:
    groups = grouped(targets, bits, bits=8)
    assert sorted(key for group in groups for key in group) == sorted(set(targets))
    for group in groups:
        assert all(shared_bits(group[0], key, 8) >= bits for key in group)
    assert len({group[0] >> (8 - bits) for group in groups}) == len(groups)


def test_who_was_silent_may_be_among_the_nearest() -> None:
    near = neighbourhood_of(0, [contact(1), contact(4), contact(9)], width=3, replicas=2, bits=8)
    near = replace(near, silent=(contact(3), contact(5), contact(200)))
    # Of the two nearest to 0 that were heard, the farther is 4; of those to 9 it is 1.
    assert near.silent_near(0, 2) == 1
    assert near.silent_near(9, 2) == 0
    assert near.silent_near(0, 4) == 3


def test_crowded_ranges_come_last_for_each_key() -> None:
    crowd = [Contact(PeerId(f"crowd{k}"), k, (f"/ip4/20.0.0.{k}/tcp/1",)) for k in range(1, 9)]
    others = [Contact(PeerId(f"other{k}"), k, (f"/ip4/20.0.{k}.1/tcp/1",)) for k in range(9, 25)]
    near = neighbourhood_of(0, crowd + others, width=20, replicas=5, bits=8)
    assert near.nearest(0)[:5] == crowd[:2] + others[:3]
    assert near.nearest(8)[:5] == [crowd[7], *others[:4]]
    assert set(near.nearest(8)) == {*crowd, *others}
