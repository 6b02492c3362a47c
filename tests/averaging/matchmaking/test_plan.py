"""Who averages how much: rates and roles go through JOINs into the plan that all members check."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from averaging.matchmaking import MatchmakingConfig
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    check_one_group,
    ids,
    leader_first,
    open_members,
)


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(5)


async def test_rates_and_roles_decide_who_averages_how_much(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    names = ("alice", "bob", "carol", "dave", "erin")
    async with open_members(network, *names, clients=("erin",), elements=100_000) as members:
        alice, bob, carol, dave, erin = members
        wishes: dict[str, dict[str, Any]] = {
            alice.peer_id: {"up_bytes_per_s": 4e6, "down_bytes_per_s": 5e6},
            bob.peer_id: {"up_bytes_per_s": 1e6, "down_bytes_per_s": 1e6},
            carol.peer_id: {},
            dave.peer_id: {"role": "aux", "weight_cap": 0.0, "up_bytes_per_s": 4e6},
            erin.peer_id: {"up_bytes_per_s": 1e6},
        }
        async with trio.open_nursery() as nursery:
            for member in members:
                wish = {"expected": ids(members), **wishes[member.peer_id]}
                nursery.start_soon(lambda member=member, wish=wish: member.find(**wish))
        group = check_one_group(members)
        assert set(group.voters) == set(ids(members)) - {dave.peer_id}
        spans = dict(zip(group.aggregators, group.span_elements, strict=True))
        assert sorted(spans) == sorted(ids([alice, bob, carol, dave]))
        assert sum(spans.values()) == 100_000
        # Carol is taken for the median; bob needs all his time for what he contributes.
        assert spans[alice.peer_id] > spans[carol.peer_id] >= spans[bob.peer_id]
        assert spans[dave.peer_id] > spans[carol.peer_id]
        said = group.join_of(alice.peer_id)
        assert said is not None
        assert (said.up_bytes_per_s, said.down_bytes_per_s) == (4_000_000, 5_000_000)


async def test_a_group_is_too_small_without_its_auxiliary_peers(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    config = MatchmakingConfig(group_size_min=2)
    async with open_members(network, "alice", "bob", config=config) as members:
        alice, bob = members
        async with trio.open_nursery() as nursery:
            wishes = {"expected": ids(members), "deadline_s": 10.0}
            nursery.start_soon(lambda: alice.find(**wishes))
            nursery.start_soon(lambda: bob.find(role="aux", **{"weight_cap": 0.0, **wishes}))
        leader = leader_first(members)[0]
        assert leader.failure is not None
        assert "1 of at least 2 members came" in leader.failure.reason


async def test_impossible_roles_and_rates_are_refused(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", clients=("bob",)) as (alice, bob):
        with pytest.raises(ValueError, match="can be dialed"):
            await alice.find(expected=[], role="client")
        for role in ("node", "aux"):
            with pytest.raises(ValueError, match="cannot be dialed"):
                await bob.find(expected=[], role=role, weight_cap=0.0)
        with pytest.raises(ValueError, match="weight_cap is 0"):
            await alice.find(expected=[], role="aux")
        for rate in (0.0, -1.0, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="positive and finite"):
                await alice.find(expected=[], up_bytes_per_s=rate)
        # Rates of less than a byte and of more than the wire carries are rounded.
        await alice.find(expected=[], up_bytes_per_s=0.1, down_bytes_per_s=1e30)
        assert alice.group is not None
        (join,) = alice.group.members
        assert (join.up_bytes_per_s, join.down_bytes_per_s) == (1, 10**15)
