"""A peer that gets no group is told why: who is not there, who differs and in what, who refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from averaging.matchmaking import MatchmakingConfig, open_matchmaking
from averaging.tensors import TensorSpec
from p2p import open_dht, short
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    GROUP_NAME,
    Member,
    check_one_group,
    find_all,
    ids,
    introduce,
    leader_first,
)

SPEC = TensorSpec(names=("a", "b"), shapes=((2, 3), (4,)), dtypes=("float32", "float32"))
OTHER_NAMES = TensorSpec(names=("a", "c"), shapes=SPEC.shapes, dtypes=SPEC.dtypes)
OTHER_SHAPES = TensorSpec(names=SPEC.names, shapes=((2, 3), (5,)), dtypes=SPEC.dtypes)
OTHER_DTYPES = TensorSpec(names=SPEC.names, shapes=SPEC.shapes, dtypes=("float32", "float16"))
OTHER_TENSORS = TensorSpec(names=("c",), shapes=((1,),), dtypes=SPEC.dtypes[:1])
PAIR = MatchmakingConfig(group_size_min=2)
PAIR_OF_HALVES = MatchmakingConfig(group_size_min=2, terms="float16")


@asynccontextmanager
async def open_pair(
    *sides: tuple[TensorSpec, MatchmakingConfig], with_dht: bool = False
) -> AsyncIterator[tuple[SimNetwork, list[Member]]]:
    """Peers of one group name, each with its own spec and config."""
    network = SimNetwork(1)
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(network.open_node("bootstrap"))
        await stack.enter_async_context(open_dht(bootstrap))
        members = []
        for spec, config in sides:
            node = await stack.enter_async_context(network.open_node())
            dht = None
            if with_dht:
                joining = open_dht(node, initial_peers=bootstrap.addresses)
                dht = await stack.enter_async_context(joining)
            opening = open_matchmaking(node, GROUP_NAME, spec.hash, config, dht)
            members.append(Member(node, await stack.enter_async_context(opening)))
        if not with_dht:
            introduce([member.node for member in members])
        await trio.sleep(3.0)
        yield network, members


@pytest.mark.parametrize(
    ("spec", "config", "difference"),
    [
        (OTHER_NAMES, PAIR, "the tensors' names differ"),
        (OTHER_SHAPES, PAIR, "the tensors' shapes differ"),
        (OTHER_DTYPES, PAIR, "the tensors' dtypes differ"),
        (OTHER_TENSORS, PAIR, "the tensors' names, shapes and dtypes differ"),
        (SPEC, PAIR_OF_HALVES, "the terms here are"),
        (SPEC, MatchmakingConfig(group_size_min=2, grid=True), "use the grid"),
    ],
)
async def test_both_sides_learn_in_what_they_differ(
    autojump_clock: MockClock, spec: TensorSpec, config: MatchmakingConfig, difference: str
) -> None:
    async with open_pair((SPEC, PAIR), (spec, config)) as (_, members):
        await find_all(members, deadline_s=10.0)
        for member, other in zip(members, reversed(members), strict=True):
            assert member.failure is not None
            assert member.seconds <= 10.0
            assert difference in member.failure.refusals[other.peer_id]
            assert f"{short(other.peer_id)} " in member.failure.reason
            assert difference in member.failure.reason


async def test_strangers_learn_it_from_each_others_records(autojump_clock: MockClock) -> None:
    async with open_pair((SPEC, PAIR), (OTHER_DTYPES, PAIR), with_dht=True) as (_, members):
        await find_all(members, expected=None, deadline_s=10.0)
        for member, other in zip(members, reversed(members), strict=True):
            assert member.failure is not None
            assert member.failure.refusals == {other.peer_id: "the tensors' dtypes differ"}


async def test_whoever_is_alone_is_told_so(autojump_clock: MockClock) -> None:
    async with open_pair((SPEC, PAIR), with_dht=True) as (_, [alice]):
        await alice.find(expected=None, deadline_s=10.0)
        assert alice.failure is not None
        assert "1 of at least 2 members came" in alice.failure.reason
        assert "nobody else is known under this group's name" in alice.failure.reason


async def test_whoever_cannot_be_reached_is_named(autojump_clock: MockClock) -> None:
    async with open_pair((SPEC, PAIR), (SPEC, PAIR)) as (network, members):
        leader, follower = leader_first(members)
        for alone, dead in ((follower, leader), (leader, follower)):
            network.partition([alone.peer_id], [dead.peer_id])
            await alone.find(expected=ids(members), deadline_s=25.0)
            assert alone.failure is not None
            assert alone.seconds <= 25.0
            assert short(dead.peer_id) in alone.failure.reason
            assert alone.failure.refusals.keys() == {dead.peer_id}
            network.heal()


async def test_members_out_of_sight_meet_once_they_can(autojump_clock: MockClock) -> None:
    async with open_pair((SPEC, PAIR), (SPEC, PAIR)) as (network, members):
        network.partition(*([member.peer_id] for member in members))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(find_all, members, deadline_s=30.0))
            await trio.sleep(12.0)
            network.heal()
        check_one_group(members)
        assert all(member.seconds <= 20.0 for member in members)


async def test_whoever_refuses_is_named(autojump_clock: MockClock) -> None:
    network = SimNetwork(1)
    async with (
        network.open_node("alice", client_mode=True) as node,
        network.open_node("bob") as bob,
        open_matchmaking(node, GROUP_NAME, SPEC.hash, PAIR) as matchmaking,
    ):
        introduce([node, bob])
        # Alice cannot lead, so she asks whomever she is told of; Bob serves another group.
        alice = Member(node, matchmaking)
        await alice.find(expected=[bob.peer_id], deadline_s=10.0)
        assert alice.failure is not None
        assert "refused" in alice.failure.refusals[bob.peer_id]
        assert short(bob.peer_id) in alice.failure.reason


async def test_a_long_list_of_reasons_is_cut_in_the_sentence_only(
    autojump_clock: MockClock,
) -> None:
    async with open_pair((SPEC, PAIR), *[(OTHER_NAMES, PAIR)] * 12, with_dht=True) as (_, members):
        alice = members[0]
        await alice.find(expected=None, deadline_s=5.0)
        assert alice.failure is not None
        assert "and 4 more" in alice.failure.reason
        assert len(alice.failure.refusals) == 12
