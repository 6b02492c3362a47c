"""Peers that know different things of each other still end in one group."""

from __future__ import annotations

import pytest

from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.keys import rank
from averaging.matchmaking.outputs import Found, GaveUp
from averaging.matchmaking.roster import Elsewhere, Roster
from averaging.round_id import RoundId
from p2p import PeerId
from tests.averaging.matchmaking.swarm import ROUND, Swarm


def by_rank(swarm: Swarm, round_id: RoundId = ROUND) -> list[PeerId]:
    """The peers, the best first."""
    return sorted(swarm.ids, key=lambda peer: rank(round_id.parent, peer))


def check_one_group(swarm: Swarm, peers: list[PeerId]) -> None:
    """All of these found the same group, of exactly these."""
    for peer_id in peers:
        assert set(swarm.peers[peer_id].group.peer_ids) == set(peers)
    assert len({swarm.peers[peer_id].group.group_id for peer_id in peers}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_two_leaders_find_each_other_through_whom_both_know(seed: int) -> None:
    swarm = Swarm(seed, 5)
    a, b, c, d, e = by_rank(swarm)
    views = {a: [c, e], c: [a], b: [d, e], d: [b], e: [a, b]}
    for peer_id, view in views.items():
        swarm.seek(peer_id, at_s=swarm.rng.uniform(0.0, 0.1), expected=[peer_id, *view])
    swarm.run()
    # The one that both know joins the better; the other leader, who misses it, hears of that.
    assert set(swarm.peers[a].group.peer_ids) >= {a, c, e}
    assert {b, d} <= set(swarm.peers[b].group.peer_ids)


@pytest.mark.parametrize("seed", range(20))
def test_wrong_lists_of_the_lost_make_no_second_group(seed: int) -> None:
    swarm = Swarm(seed, 5)
    late = swarm.rng.choice(swarm.ids)
    for peer_id in swarm.ids:
        others = [other for other in swarm.ids if other != peer_id]
        swarm.seek(
            peer_id,
            at_s=2.0 if peer_id == late else 0.0,
            expected=swarm.ids,
            lost=[swarm.rng.choice(others)],
        )
    swarm.run()
    outcomes = [peer.outcomes[0] for peer in swarm.peers.values()]
    groups = {outcome.group.group_id for outcome in outcomes if isinstance(outcome, Found)}
    assert len(groups) == 1
    # Whom the leader takes for lost it does not wait for.
    assert sum(isinstance(outcome, GaveUp) for outcome in outcomes) <= 1


def test_a_leader_learns_of_a_better_one_and_sends_its_followers_on() -> None:
    swarm = Swarm(1, 4)
    best, second, *rest = by_rank(swarm)
    # At first nobody knows the best; then the second reads its record.
    for peer_id in (second, *rest):
        others = [peer for peer in (second, *rest) if peer != peer_id]
        swarm.candidates(0.0, {peer_id: others})
        swarm.seek(peer_id, at_s=0.1, expected=None)
    swarm.seek(best, at_s=0.1, expected=None)
    swarm.candidates(1.0, {second: [best]})
    swarm.run()
    check_one_group(swarm, swarm.ids)
    assert swarm.peers[best].group.leader == best


def test_a_full_group_closes_at_once_and_the_rest_make_another() -> None:
    swarm = Swarm(1, 6, config=MatchmakingConfig(group_size_max=3))
    for peer_id in swarm.ids:
        swarm.candidates(0.0, {peer_id: swarm.ids})
        swarm.seek(peer_id, at_s=0.1, expected=None)
    swarm.run()
    assert sorted(len(peer.group.members) for peer in swarm.peers.values()) == [3] * 6
    assert len({peer.group.group_id for peer in swarm.peers.values()}) == 2


def test_a_latecomer_does_not_fork_off_alone() -> None:
    swarm = Swarm(1, 4)
    *punctual, late = swarm.ids
    for peer_id in punctual:
        swarm.seek(peer_id, expected=punctual)
    swarm.seek(late, at_s=1.0, expected=swarm.ids, deadline_s=20.0)
    swarm.run()
    check_one_group(swarm, punctual)
    assert "most of the others are in a group without us" in swarm.peers[late].failure.reason
    assert "closed" in swarm.peers[late].failure.reason


def test_a_latecomer_learns_that_it_is_behind_when_the_others_go_on() -> None:
    swarm = Swarm(1, 4)
    *punctual, late = swarm.ids
    for peer_id in punctual:
        swarm.seek(peer_id, expected=punctual)
    swarm.seek(late, at_s=1.0, expected=swarm.ids)
    next_round = RoundId(ROUND.number + 1, b"r" * 32)
    for peer_id in punctual:
        swarm.seek(peer_id, at_s=3.0, expected=swarm.ids, round_id=next_round)
    swarm.run()
    assert swarm.peers[late].failure.behind == next_round
    assert swarm.peers[late].ended_at_s <= 6.0
    check_one_group(swarm, punctual)


def test_whoever_waited_for_the_leader_is_admitted_though_unexpected() -> None:
    swarm = Swarm(1, 4)
    leader, *others = by_rank(swarm)
    for peer_id in others:
        swarm.seek(peer_id, expected=swarm.ids)
    swarm.seek(leader, at_s=1.0, expected=others[:1])
    swarm.run()
    check_one_group(swarm, swarm.ids)
    assert swarm.peers[leader].ended_at_s == 1.0


def test_one_liar_about_the_round_does_not_stop_the_others() -> None:
    swarm = Swarm(1, 4)
    liar, *honest = swarm.ids
    swarm.seek(liar, expected=swarm.ids, round_id=RoundId(2**40))
    for peer_id in honest:
        swarm.seek(peer_id, at_s=0.1, expected=swarm.ids)
    swarm.run()
    check_one_group(swarm, honest)


def test_a_group_below_its_least_size_does_not_start() -> None:
    swarm = Swarm(1, 4)
    alone, *others = swarm.ids
    for peer_id in others:
        swarm.crash(peer_id, 0.0)
    swarm.seek(alone, at_s=0.1, expected=swarm.ids, group_size_min=2, deadline_s=10.0)
    swarm.run()
    assert "1 of at least 2 members came" in swarm.peers[alone].failure.reason


@pytest.mark.parametrize("seed", range(10))
def test_few_do_not_begin_without_the_many_that_are_on_their_way(seed: int) -> None:
    """Two groups would both succeed, with different results for one round."""
    swarm = Swarm(seed, 6)
    for number, peer_id in enumerate(swarm.ids):
        swarm.seek(peer_id, at_s=0.0 if number < 2 else 8.0, expected=swarm.ids)
    swarm.run()
    check_one_group(swarm, swarm.ids)


def test_most_do_not_wait_for_the_few_that_do_not_come() -> None:
    swarm = Swarm(1, 5)
    present = swarm.ids[:3]
    for peer_id in present:
        swarm.seek(peer_id, expected=swarm.ids)
    swarm.run()
    check_one_group(swarm, present)
    assert all(swarm.peers[peer_id].ended_at_s < 11.0 for peer_id in present)


def test_who_is_ahead_is_in_another_group_too() -> None:
    """One of two others is still in the group that closed, the other has gone on already."""
    own, one, other = Swarm(1, 3).ids
    roster = Roster(own, ROUND)
    roster.elsewhere[one] = Elsewhere.CLOSED
    assert not roster.mostly_elsewhere([one, other])
    roster.other_rounds[other] = RoundId(ROUND.number - 1)
    assert not roster.mostly_elsewhere([one, other])
    roster.other_rounds[other] = RoundId(ROUND.number + 1)
    assert roster.mostly_elsewhere([one, other])
    assert roster.left_behind([one, other]) is None


@pytest.mark.parametrize("best", [True, False])
def test_of_two_halves_the_one_with_the_first_by_rank_begins(best: bool) -> None:
    swarm = Swarm(1, 4)
    ranked = by_rank(swarm)
    present = ranked[:2] if best else ranked[2:]
    for peer_id in present:
        swarm.seek(peer_id, expected=swarm.ids, deadline_s=10.0)
    swarm.run()
    if best:
        check_one_group(swarm, present)
        return
    leader = swarm.peers[present[0]]
    assert "2 came, and 2 that may be alive did not" in leader.failure.reason
    assert leader.ended_at_s <= 10.0
