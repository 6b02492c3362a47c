"""What is written down for the next start: bounded, checked, and enough to be back at once."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p import Identity, MessageInvalid
from p2p.dht import open_dht, owned_subkey
from p2p.dht.contact import Contact
from p2p.dht.key import node_key
from p2p.dht.snapshot import (
    CONTACTS_MAX,
    Snapshot,
    first_to_try,
    from_bytes_untrusted,
    to_bytes,
)
from tests.p2p.dht.swarms import QUICK, open_swarm

PEERS = [Identity.generate(random.Random(seed)).peer_id for seed in range(40)]
CONTACTS = [Contact(peer, node_key(peer), ("/ip4/1.2.3.4/tcp/5",)) for peer in PEERS]


def test_a_snapshot_comes_back_nearest_first() -> None:
    snapshot = from_bytes_untrusted(to_bytes(7, 0, CONTACTS))
    assert snapshot == Snapshot(7, tuple(sorted(CONTACTS, key=lambda one: one.key)))


def test_only_so_much_is_written_down() -> None:
    many = [replace(CONTACTS[0], key=key) for key in range(CONTACTS_MAX * 2)]
    assert len(from_bytes_untrusted(to_bytes(0, 0, many)).contacts) == CONTACTS_MAX


@given(st.lists(st.sampled_from(CONTACTS), unique=True), st.integers(2, 20))
def test_neighbours_and_others_are_tried_first(contacts: list[Contact], count: int) -> None:
    snapshot = Snapshot(0, tuple(contacts))
    tried = first_to_try(snapshot, count)
    assert len(tried) == len(set(tried)) == min(count, len(contacts))
    assert tried[: count // 2] == contacts[: count // 2]


@given(st.binary(max_size=300))
def test_noise_is_refused_with_one_error(data: bytes) -> None:
    whole = to_bytes(1, 0, CONTACTS[:2])
    for damaged in (data, whole[:16] + data):
        try:
            from_bytes_untrusted(damaged)
        except MessageInvalid:
            continue


def test_a_cut_file_is_refused() -> None:
    whole = to_bytes(1, 0, CONTACTS)
    with pytest.raises(MessageInvalid):
        from_bytes_untrusted(whole[:-1])
    with pytest.raises(MessageInvalid):
        from_bytes_untrusted(b"")


async def test_a_restart_is_back_within_a_second_without_its_initial_peers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    identity = Identity.generate()
    config = replace(QUICK, state_path=tmp_path / "below" / "dht.state")
    subkey = owned_subkey(identity.peer_id)
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(6)]
        async with (
            swarm.network.open_node("alice", identity=identity) as node,
            open_dht(node, replace(config, sequence_floor=2**60), swarm.initial_peers) as alice,
        ):
            first = await alice.put("k", b"before", subkey=subkey, ttl_s=600)
            assert len(alice.peers) == 6
        swarm.network.crash(nodes[0][0].peer_id)
        async with swarm.network.open_node("alice", identity=identity) as node:
            with trio.fail_after(1):
                async with open_dht(node, config, swarm.initial_peers) as alice:
                    assert set(alice.peers) >= {one.peer_id for one, _ in nodes[1:]}
                    second = await alice.put("k", b"after", subkey=subkey, ttl_s=600)
                    assert second.sequence == first.sequence + 1


async def test_a_damaged_file_is_no_reason_not_to_start(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "dht.state"
    path.write_bytes(b"damaged")
    config = replace(QUICK, state_path=path)
    async with open_swarm() as swarm:
        await swarm.add("bob")
        _, alice = await swarm.add("alice", config)
        assert len(alice.peers) == 1
        assert "dht_state_unreadable" in caplog.text
        await trio.sleep(61)
        assert from_bytes_untrusted(path.read_bytes()).contacts[0].peer_id == alice.peers[0]


async def test_a_file_that_cannot_be_written_is_told(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(QUICK, state_path=tmp_path)
    async with open_swarm() as swarm:
        await swarm.add("alice", config)
    assert "dht_state_unreadable" in caplog.text
    assert "dht_state_not_saved" in caplog.text


async def test_nobody_left_of_those_known_is_a_start_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    config = replace(QUICK, state_path=tmp_path / "dht.state")
    (tmp_path / "dht.state").write_bytes(to_bytes(0, 0, CONTACTS))
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice", config)
        assert alice.peers == ()
        assert (await alice.put("k", b"v", ttl_s=60)).replicas == 1


async def test_a_start_without_a_network_forgets_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "dht.state"
    path.write_bytes(to_bytes(7, 0, CONTACTS))
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice", replace(QUICK, state_path=path))
        assert alice.peers == ()
    saved = from_bytes_untrusted(path.read_bytes())
    assert saved.sequence == 7
    assert set(saved.contacts) == set(CONTACTS)


async def test_those_who_are_heard_take_the_places_of_those_who_are_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "dht.state"
    path.write_bytes(to_bytes(0, 0, CONTACTS))
    async with open_swarm() as swarm:
        bob, _ = await swarm.add("bob")
        await swarm.add("alice", replace(QUICK, state_path=path))
    # A node that is back greets so many, so what more would be lost is no loss.
    saved = from_bytes_untrusted(path.read_bytes()).contacts
    assert len(saved) == 16
    assert saved[0].peer_id == bob.peer_id
    assert set(saved[1:]) < set(CONTACTS)
