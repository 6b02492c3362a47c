"""Strangers that find each other through the DHT."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from averaging.matchmaking import MatchmakingConfig, open_matchmaking, schema
from averaging.matchmaking.keys import strangers_key
from averaging.matchmaking.strangers import parse_record_untrusted
from averaging.round_id import RoundId
from p2p import Entry, Identity, MessageInvalid, encode, open_dht, owned_subkey
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    GROUP_NAME,
    ROUND,
    SPEC_HASH,
    Member,
    check_one_group,
    find_all,
    leader_first,
)

RECORD = encode(
    schema.CandidateRecord(("/ip4/10.0.0.1/tcp/4001",), schema.round_on_wire(ROUND), SPEC_HASH)
)


@asynccontextmanager
async def open_strangers(
    network: SimNetwork, *names: str, clients: tuple[str, ...] = ()
) -> AsyncIterator[list[Member]]:
    """Nodes that know nothing but one address of the DHT."""
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(network.open_node("bootstrap"))
        await stack.enter_async_context(open_dht(bootstrap))
        members = []
        for name in names:
            opening = network.open_node(name, client_mode=name in clients)
            node = await stack.enter_async_context(opening)
            dht = await stack.enter_async_context(open_dht(node, initial_peers=bootstrap.addresses))
            matchmaking = await stack.enter_async_context(
                open_matchmaking(node, GROUP_NAME, SPEC_HASH, dht=dht)
            )
            members.append(Member(node, matchmaking))
        await trio.sleep(3.0)
        yield members
        assert network.handler_errors == []


async def find_strangers(members: list[Member], **wishes: Any) -> None:
    await find_all(members, **{"expected": None, "follow": True, **wishes})


async def test_strangers_find_each_other(autojump_clock: MockClock) -> None:
    async with open_strangers(SimNetwork(2), "alice", "bob", "carol") as members:
        await find_strangers(members)
        group = check_one_group(members)
        assert group.leader == leader_first(members)[0].peer_id
        # The first round waits for whoever may come.
        window_s = MatchmakingConfig().join_window_s
        assert max(member.seconds for member in members) == pytest.approx(window_s, abs=1.0)
        # Now they know each other.
        await find_strangers(members, round=RoundId(4, b"q" * 32))
        check_one_group(members)
        assert max(member.seconds for member in members) <= 0.5


async def test_a_newcomer_is_found_and_follows(autojump_clock: MockClock) -> None:
    async with open_strangers(SimNetwork(3), "alice", "bob", "carol") as members:
        newcomer, *others = members
        for number in (3, 4):
            await find_strangers(others, round=RoundId(number, b"p" * 32))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: newcomer.find(expected=None, round=RoundId(0), follow=True))
            await trio.sleep(1.0)
            nursery.start_soon(lambda: find_strangers(others, round=RoundId(5, b"p" * 32)))
        assert check_one_group(members).round == RoundId(5, b"p" * 32)


async def test_clients_find_whom_they_can_dial(autojump_clock: MockClock) -> None:
    async with open_strangers(SimNetwork(4), "alice", "bob", clients=("bob",)) as members:
        await find_strangers(members)
        assert check_one_group(members).aggregators == (members[0].peer_id,)


async def test_a_dead_stranger_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    network = SimNetwork(5)
    async with open_strangers(network, "alice", "bob", "carol") as members:
        await find_strangers(members)
        dead, *others = leader_first(members)
        network.crash(dead.peer_id)
        await find_strangers(others, round=RoundId(4, ROUND.parent))
        check_one_group(others)
        assert max(member.seconds for member in others) <= 1.0


def test_records_are_checked() -> None:
    identity = Identity.generate()
    peer, subkey = identity.peer_id, owned_subkey(identity.peer_id)
    good = Entry(value=RECORD, remaining_s=30.0, owner=peer, sequence=1)
    candidate = parse_record_untrusted(subkey, good, SPEC_HASH)
    assert (candidate.peer_id, candidate.remaining_s) == (peer, 30.0)
    assert candidate.difference == ""
    other_spec = SPEC_HASH[:16] + b"t" * 16
    assert "dtypes differ" in parse_record_untrusted(subkey, good, other_spec).difference
    other = Identity.generate().peer_id
    for wrong_subkey, entry in (
        ("nobody", good),
        (owned_subkey(other), good),
        (subkey, Entry(value=RECORD, remaining_s=30.0, owner=None, sequence=0)),
        (subkey, Entry(value=RECORD[:-1], remaining_s=30.0, owner=peer, sequence=1)),
        (subkey, Entry(value=b"", remaining_s=30.0, owner=peer, sequence=1)),
    ):
        with pytest.raises(MessageInvalid):
            parse_record_untrusted(wrong_subkey, entry, SPEC_HASH)


def test_buckets_have_keys_of_their_own() -> None:
    assert strangers_key("run/gradients") == "run/gradients/0"
    assert strangers_key("run/gradients", "01") == "run/gradients/0b01"
