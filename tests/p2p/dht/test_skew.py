"""The median clock: a few liars do not move it."""

import random

from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p import Identity
from p2p.dht import DhtConfig
from p2p.dht.key import bucket_index
from p2p.dht.schema import contact_untrusted
from p2p.dht.skew import MedianClock
from tests.p2p.dht.swarms import open_swarm


def test_without_peers_our_own_clock_is_right() -> None:
    assert MedianClock().offset_s == 0.0


def test_the_newest_word_of_each_peer_counts() -> None:
    clock = MedianClock()
    clock.on_answer("a", 5000.0, 1000.0)
    assert clock.offset_s == 4000.0
    clock.on_answer("a", 1001.0, 1000.0)
    assert clock.offset_s == 1.0


@given(
    st.lists(st.floats(-60, 60), min_size=5, max_size=40),
    st.lists(st.floats(-1e9, 1e9), max_size=2),
)
def test_a_minority_of_liars_stays_within_the_honest(
    honest: list[float], lies: list[float]
) -> None:
    clock = MedianClock()
    for index, offset_s in enumerate(honest + lies):
        clock.on_answer(f"peer{index}", 1e6 + offset_s, 1e6)
    assert min(honest) - 1e-6 <= clock.offset_s <= max(honest) + 1e-6


def test_the_number_of_voters_remembered_is_bounded() -> None:
    clock = MedianClock()
    for index in range(1000):
        clock.on_answer(f"peer{index}", float(index), 0.0)
    assert clock.offset_s > 900


async def test_an_address_range_has_one_vote(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        for number in range(3):
            await swarm.add(f"honest{number}", host=f"2{number}.1.1.1")
        for number in range(6):
            await swarm.add(f"liar{number}", host=f"6.6.6.{number + 1}", clock_skew_s=5000)
        _, dht = await swarm.add("alice", host="9.9.9.9")
        assert len(dht.peers) == 9
        assert abs(dht._state.clock.offset_s) < 1


async def test_who_has_no_place_in_the_table_has_no_vote(autojump_clock: MockClock) -> None:
    """A liar names ever more peers of its own, and all are asked: those are no witnesses."""
    async with open_swarm() as swarm:
        _, dht = await swarm.add("alice", DhtConfig(farewell_s=0, bucket_size=5))
        state = dht._state
        wall_ms = state.wall_ms
        contacts = []
        rng = random.Random(5)
        while len(contacts) < 30:
            contact = contact_untrusted(Identity.generate(rng).peer_id, ("/ip4/10.0.0.9/tcp/1",))
            if bucket_index(state.own_key, contact.key) == 0:
                contacts.append(contact)
        for index, contact in enumerate(contacts):
            state.on_answer(contact, wall_ms if index < 5 else wall_ms + 5_000_000)
        assert abs(state.clock.offset_s) < 1
