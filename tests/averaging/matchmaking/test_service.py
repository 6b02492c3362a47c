"""Matchmaking between simulated nodes: who is there, who is late, who is dead, who is wrong."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from averaging.matchmaking import MatchmakingConfig, open_matchmaking
from averaging.round_id import RoundId
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    GROUP_NAME,
    ROUND,
    SPEC_HASH,
    Member,
    check_one_group,
    find_all,
    ids,
    introduce,
    leader_first,
    open_members,
)

LATENCY_S = 0.02
# Connecting takes some round trips, JOIN and GROUP one.
FEW_ROUND_TRIPS_S = 20 * LATENCY_S
NEXT_ROUND = RoundId(4, b"q" * 32)


@pytest.fixture
def network() -> SimNetwork:
    network = SimNetwork(1)
    network.default_latency_s = LATENCY_S
    return network


async def test_a_group_closes_at_once_when_all_are_there(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        await find_all(members)
        group = check_one_group(members)
        assert group.leader == leader_first(members)[0].peer_id
        assert group.round == ROUND
        assert group.chunk_elements == 4096
        assert 0 < group.deadline_s <= 30.0
        assert max(member.seconds for member in members) <= FEW_ROUND_TRIPS_S
        await find_all(members, round=NEXT_ROUND)
        assert check_one_group(members).round == NEXT_ROUND
        # All are connected now: JOIN and GROUP, with the simulation's jitter.
        assert max(member.seconds for member in members) <= 4 * LATENCY_S


async def test_clocks_that_are_minutes_apart_do_not_matter(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    skews = (0.0, 400.0, -250.0)
    async with open_members(network, "alice", "bob", "carol", skews=skews) as members:
        await find_all(members)
        check_one_group(members)
        assert max(member.seconds for member in members) <= FEW_ROUND_TRIPS_S


async def test_a_missing_member_costs_less_from_round_to_round(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol", "dave") as members:
        present = members[:3]
        seconds = []
        for number in range(3, 9):
            # Dave is alive, so that only time can tell that he does not come.
            await find_all(present, expected=ids(members), round=RoundId(number, b"p" * 32))
            check_one_group(present)
            seconds.append(max(member.seconds for member in present))
        config = MatchmakingConfig()
        leader = leader_first(members)[0]
        assert leader is not members[3]
        assert seconds[0] == pytest.approx(config.join_window_s, abs=FEW_ROUND_TRIPS_S)
        assert seconds[-1] == pytest.approx(config.join_window_s_min, abs=FEW_ROUND_TRIPS_S)


async def test_the_dead_are_not_waited_for(autojump_clock: MockClock, network: SimNetwork) -> None:
    async with open_members(network, "alice", "bob", "carol", "dave") as members:
        network.crash(members[3].peer_id)
        await find_all(members[:3], expected=ids(members))
        check_one_group(members[:3])
        # The leader asks after who is missing in a quarter of a second.
        assert max(member.seconds for member in members[:3]) <= 0.25 + FEW_ROUND_TRIPS_S


async def test_whoever_was_lost_is_not_waited_for(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        last = leader_first(members)[-1]
        present = [member for member in members if member is not last]
        await find_all(present, expected=ids(members), lost=[last.peer_id])
        check_one_group(present)
        assert max(member.seconds for member in present) <= FEW_ROUND_TRIPS_S


async def test_a_lost_leader_that_is_back_joins_the_others(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        lost, leader, late = leader_first(members)
        wishes = {"expected": ids(members), "lost": [lost.peer_id]}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lost.find(expected=ids(members)))
            nursery.start_soon(lambda: leader.find(**wishes))
            await trio.sleep(2.0)
            nursery.start_soon(lambda: late.find(**wishes))
        assert check_one_group(members).leader == leader.peer_id


async def test_followers_of_a_dead_leader_go_on_at_once(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol", "dave") as members:
        leader, *others = leader_first(members)
        late = others[-1]
        async with trio.open_nursery() as nursery:
            for member in [leader, *others[:-1]]:
                nursery.start_soon(lambda member=member: member.find(expected=ids(members)))
            await trio.sleep(1.0)
            network.crash(leader.peer_id)
            await trio.sleep(0.5)
            nursery.start_soon(lambda: late.find(expected=ids(members)))
            await trio.sleep(1.5)
            check_one_group(others)
            assert late.seconds <= 0.5 + FEW_ROUND_TRIPS_S
            nursery.cancel_scope.cancel()


async def test_a_frozen_leader_is_passed_over_and_ranked_last(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol", "dave") as members:
        await find_all(members)
        leader, *others = leader_first(members)
        network.freeze(leader.peer_id)
        await find_all(others, expected=ids(members))
        check_one_group(others)
        assert max(member.seconds for member in others) <= 1.5 + FEW_ROUND_TRIPS_S
        # Thawed, it would lead again by rank, but the others do not try it first.
        network.thaw(leader.peer_id)
        await trio.sleep(1.0)
        again = RoundId(4, ROUND.parent)
        await find_all(members, round=again)
        group = check_one_group(members)
        assert group.leader == others[0].peer_id
        assert max(member.seconds for member in members) <= 0.5 + FEW_ROUND_TRIPS_S


async def test_a_leader_that_is_not_looking_yet_is_waited_for(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        leader, *others = leader_first(members)
        assert not leader.matchmaking.round_wanted(ROUND)
        async with trio.open_nursery() as nursery:
            for member in others:
                nursery.start_soon(lambda member=member: member.find(expected=ids(members)))
            await trio.sleep(3.0)
            assert leader.matchmaking.round_wanted(ROUND)
            assert not leader.matchmaking.round_wanted(NEXT_ROUND)
            await leader.find(expected=ids(members))
        assert check_one_group(members).leader == leader.peer_id
        assert leader.seconds == 0.0


async def test_a_follower_that_is_not_looking_yet_is_told_that_it_is_wanted(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob") as members:
        leader, follower = leader_first(members)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: leader.find(expected=ids(members)))
            await trio.sleep(1.0)
            assert follower.matchmaking.round_wanted(ROUND)
            await follower.find(expected=ids(members))
        check_one_group(members)


async def test_a_leader_that_never_begins_is_given_up(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        _, *others = leader_first(members)
        await find_all(others, expected=ids(members))
        check_one_group(others)
        window_s = MatchmakingConfig().join_window_s
        assert max(member.seconds for member in others) <= 2 * window_s + FEW_ROUND_TRIPS_S


async def test_alone_is_a_group_of_one(autojump_clock: MockClock, network: SimNetwork) -> None:
    async with open_members(network, "alice") as (alice,):
        await alice.find(expected=[alice.peer_id])
        assert check_one_group([alice]).aggregators == (alice.peer_id,)
        assert alice.seconds == 0.0
        await alice.find(expected=None, round=NEXT_ROUND)
        check_one_group([alice])
        assert alice.seconds == MatchmakingConfig().join_window_s


async def test_a_client_that_expects_nobody_needs_nobody(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", clients=("alice",)) as (alice,):
        await alice.find(expected=[alice.peer_id])
        assert check_one_group([alice]).aggregators == (alice.peer_id,)


async def test_a_group_that_stays_too_small_is_none(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    config = MatchmakingConfig(group_size_min=2)
    async with open_members(network, "alice", config=config) as (alice,):
        await alice.find(expected=[alice.peer_id], deadline_s=10.0)
        assert alice.failure is not None
        assert "1 of at least 2 members came" in alice.failure.reason
        assert alice.seconds == 10.0


async def test_clients_join_and_do_not_lead(autojump_clock: MockClock, network: SimNetwork) -> None:
    names = ("alice", "bob", "carol")
    async with open_members(network, *names, clients=("alice", "bob")) as members:
        await find_all(members)
        group = check_one_group(members)
        assert group.leader == members[2].peer_id
        assert group.aggregators == (members[2].peer_id,)
        assert set(group.voters) == set(ids(members))


async def test_clients_alone_are_told_that_none_of_them_can_be_dialed(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", clients=("alice", "bob")) as members:
        await find_all(members)
        for member, other in zip(members, reversed(members), strict=True):
            assert member.failure is not None
            assert "nobody that can be dialed" in member.failure.reason
            assert other.peer_id in member.failure.refusals
            assert member.seconds <= MatchmakingConfig().join_window_s + FEW_ROUND_TRIPS_S


async def test_another_spec_is_refused_with_the_reason(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with (
        open_members(network, "alice", "bob", "carol") as members,
        network.open_node("mallory") as node,
        open_matchmaking(node, GROUP_NAME, b"t" * 32) as matchmaking,
    ):
        mallory = Member(node, matchmaking)
        introduce([node, *(member.node for member in members)])
        everyone = ids([*members, mallory])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: mallory.find(expected=everyone, group_size_min=2))
            nursery.start_soon(lambda: find_all(members, expected=everyone))
        check_one_group(members)
        assert max(member.seconds for member in members) <= 0.25 + 2 * FEW_ROUND_TRIPS_S
        assert mallory.failure is not None
        assert any("spec" in reason for reason in mallory.failure.refusals.values())


async def test_whoever_is_behind_learns_the_round_of_the_others(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        straggler, *others = members
        async with trio.open_nursery() as nursery:
            for member in others:
                wishes = {"round": NEXT_ROUND, "expected": ids(members)}
                nursery.start_soon(lambda member=member, wishes=wishes: member.find(**wishes))
            await trio.sleep(0.1)
            await straggler.find(expected=ids(members))
            assert straggler.failure is not None
            assert straggler.failure.behind == NEXT_ROUND
            assert straggler.seconds <= 2 * FEW_ROUND_TRIPS_S
            assert "behind" in straggler.failure.reason
        # Nobody waits for one who has to fetch their state first.
        check_one_group(others)


async def test_whoever_comes_for_a_settled_round_is_behind(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        late, *others = members
        await find_all(others, expected=ids(others))
        for member in others:
            member.matchmaking.settle(ROUND, NEXT_ROUND)
        await late.find(expected=ids(members))
        assert late.failure is not None
        assert late.failure.behind == NEXT_ROUND
        assert late.seconds <= FEW_ROUND_TRIPS_S


async def test_whoever_is_behind_follows_if_it_may(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        rounds = [ROUND, NEXT_ROUND, RoundId(0)]
        async with trio.open_nursery() as nursery:
            for member, round_id in zip(members, rounds, strict=True):
                wishes = {"round": round_id, "expected": ids(members), "follow": True}
                nursery.start_soon(lambda member=member, wishes=wishes: member.find(**wishes))
        assert check_one_group(members).round == NEXT_ROUND
        assert max(member.seconds for member in members) <= 1.0


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("follows", [True, False])
async def test_who_comes_in_an_older_round_is_waited_for_if_it_follows(
    autojump_clock: MockClock, network: SimNetwork, late: int, follows: bool
) -> None:
    """Whoever of the three leads hears of the late one by its JOIN for the round before."""
    async with open_members(network, "alice", "bob", "carol") as members:

        async def find(number: int) -> None:
            wishes = {"round": NEXT_ROUND, "expected": ids(members)}
            if number == late:
                await trio.sleep(0.05)
                wishes |= {"round": ROUND, "follow": follows}
            await members[number].find(**wishes)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(find, number)
        together = members if follows else [one for one in members if one is not members[late]]
        assert check_one_group(together).round == NEXT_ROUND
        assert max(member.seconds for member in together) <= 1.0


async def test_of_two_parents_one_side_yields(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob") as members:
        parents = (b"a" * 32, b"z" * 32)
        async with trio.open_nursery() as nursery:
            for member, parent in zip(members, parents, strict=True):
                wishes = {"round": RoundId(0, parent), "expected": ids(members)}
                nursery.start_soon(lambda member=member, wishes=wishes: member.find(**wishes))
        stays, yields = members
        assert yields.failure is not None
        assert yields.failure.behind == RoundId(0, parents[0])
        assert check_one_group([stays]).round == RoundId(0, parents[0])


async def test_two_group_names_share_a_node(autojump_clock: MockClock, network: SimNetwork) -> None:
    async with open_members(network, "alice", "bob") as members:
        alice, bob = (member.node for member in members)
        async with (
            open_matchmaking(alice, "run/parameters", SPEC_HASH) as at_alice,
            open_matchmaking(bob, "run/parameters", SPEC_HASH) as at_bob,
        ):
            others = [Member(alice, at_alice), Member(bob, at_bob)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(find_all, members)
                nursery.start_soon(find_all, others)
        group, other_group = check_one_group(members), check_one_group(others)
        assert group.group_id != other_group.group_id
        assert {join.group_name for join in other_group.members} == {"run/parameters"}


async def test_a_cancelled_search_leaves_nothing_behind(
    autojump_clock: MockClock, network: SimNetwork
) -> None:
    async with open_members(network, "alice", "bob", "carol") as members:
        _, *others = leader_first(members)
        with trio.move_on_after(1.0):
            await find_all(others, expected=ids(members))
        assert others[0].group is None
        await trio.sleep(0.1)
        await find_all(members)
        check_one_group(members)


async def test_only_one_search_at_a_time(autojump_clock: MockClock, network: SimNetwork) -> None:
    async with open_members(network, "alice", "bob") as members, trio.open_nursery() as nursery:
        nursery.start_soon(find_all, members)
        await trio.sleep(LATENCY_S)
        with pytest.raises(ValueError, match="under way"):
            await members[0].matchmaking.find_group(
                ROUND, weight_cap=1.0, expected=[], deadline_s=1.0
            )
        nursery.cancel_scope.cancel()
