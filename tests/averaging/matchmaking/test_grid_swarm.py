"""A swarm of several groups: buckets of the grid, round after round, through the real service."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from averaging.matchmaking import MatchmakingConfig, open_matchmaking
from averaging.round_id import RoundId
from p2p import open_dht
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    GROUP_NAME,
    SPEC_HASH,
    Member,
    find_all,
    ids,
    introduce,
)


@asynccontextmanager
async def open_swarm(
    network: SimNetwork,
    count: int,
    config: MatchmakingConfig,
    *,
    with_dht: bool = True,
    client_count: int = 0,
    skews: Sequence[float] = (0.0,),
) -> AsyncIterator[list[Member]]:
    """Nodes that find each other in a DHT, or know each other from the start."""
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(network.open_node("bootstrap"))
        await stack.enter_async_context(open_dht(bootstrap))
        members = []
        for index in range(count):
            opening = network.open_node(
                f"peer-{index}",
                client_mode=index < client_count,
                clock_skew_s=skews[index % len(skews)],
            )
            node = await stack.enter_async_context(opening)
            dht = None
            if with_dht:
                joining = open_dht(node, initial_peers=bootstrap.addresses)
                dht = await stack.enter_async_context(joining)
            matchmaking = await stack.enter_async_context(
                open_matchmaking(node, GROUP_NAME, SPEC_HASH, config, dht)
            )
            members.append(Member(node, matchmaking))
        if not with_dht:
            introduce([member.node for member in members])
        await trio.sleep(5.0)
        yield members
        assert network.handler_errors == []


def settle(members: Sequence[Member], number: int) -> None:
    """Every group has a result of its own; the next round builds on it."""
    for member in members:
        assert member.group is not None
        result = member.group.group_id
        member.matchmaking.settle(member.group.round, RoundId(number + 1, result))


def check_groups(members: Sequence[Member], cap: int) -> dict[bytes, list[Member]]:
    """Everyone has a group, the same as its members', of one bucket and no larger than allowed."""
    groups: dict[bytes, list[Member]] = {}
    for member in members:
        assert member.group is not None, member.failure
        groups.setdefault(member.group.group_id, []).append(member)
    for together in groups.values():
        group = together[0].group
        assert group is not None
        assert set(group.peer_ids) == set(ids(together))
        assert len(together) <= cap
        assert len({join.bucket for join in group.members}) == 1
    return groups


def average(groups: dict[bytes, list[Member]], values: dict[str, float]) -> float:
    """What a round does to the members' values; returns their variance afterwards."""
    for together in groups.values():
        mean = statistics.fmean(values[member.peer_id] for member in together)
        values.update(dict.fromkeys(ids(together), mean))
    return statistics.pvariance(values.values())


@pytest.mark.parametrize("with_dht", [True, False])
@pytest.mark.parametrize("cap", [6, 8])
async def test_a_swarm_of_several_groups_mixes(
    autojump_clock: MockClock, cap: int, with_dht: bool
) -> None:
    network = SimNetwork(1)
    config = MatchmakingConfig(group_size_max=cap, grid=True)
    async with open_swarm(network, 24, config, with_dht=with_dht) as members:
        values = {member.peer_id: float(index) for index, member in enumerate(members)}
        mean, first = statistics.fmean(values.values()), statistics.pvariance(values.values())
        expected = None if with_dht else ids(members)
        for number in range(6):
            parents = {m.peer_id: m.group.group_id if m.group else bytes(32) for m in members}
            async with trio.open_nursery() as nursery:
                for member in members:
                    wanted = RoundId(number, parents[member.peer_id])
                    wishes = {"round": wanted, "expected": expected, "follow": with_dht}
                    nursery.start_soon(lambda member=member, wishes=wishes: member.find(**wishes))
            groups = check_groups(members, cap)
            print(trio.current_time())
            print(
                cap,
                with_dht,
                number,
                sorted((len(t), t[0].group.members[0].bucket) for t in groups.values()),
                max(m.seconds for m in members),
                average(groups, values) / first,
            )
            settle(members, number)
        assert statistics.fmean(values.values()) == pytest.approx(mean)
