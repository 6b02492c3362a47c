"""Many matchers together, with seeded delays and faults: what must hold whatever happens."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.keys import rank
from averaging.matchmaking.outputs import Found, GaveUp
from averaging.round_id import RoundId
from p2p import PeerId
from tests.averaging.matchmaking.swarm import ROUND, Peer, Swarm

seeds = st.integers(0, 2**32 - 1)
LATENCY_S = 0.02


def best(peers: list[PeerId], round_id: RoundId = ROUND) -> PeerId:
    """Who leads if all goes well."""
    return min(peers, key=lambda peer: rank(round_id.parent, peer))


def alive(swarm: Swarm) -> list[Peer]:
    return [peer for peer in swarm.peers.values() if peer.alive]


def check_outcomes(swarm: Swarm) -> None:
    """Everyone alive has one outcome; a group is the same for all its members, and theirs."""
    groups = {}
    for peer in alive(swarm):
        assert len(peer.outcomes) == 1, (peer.peer_id, peer.outcomes)
        outcome = peer.outcomes[0]
        if isinstance(outcome, Found):
            assert peer.peer_id in outcome.group.peer_ids
            assert groups.setdefault(outcome.group.group_id, outcome.group) == outcome.group
        else:
            assert outcome.reason


@pytest.mark.slow
@given(seeds, st.integers(2, 32), st.floats(0.0, 4.0))
@settings(max_examples=60)
def test_all_who_know_each_other_are_in_one_group_at_once(
    seed: int, count: int, spread_s: float
) -> None:
    swarm = Swarm(seed, count, latency_s=LATENCY_S)
    swarm.seek_all(spread_s=spread_s)
    swarm.run()
    check_outcomes(swarm)
    peers = list(swarm.peers.values())
    assert len({peer.group.group_id for peer in peers}) == 1
    assert peers[0].group.peer_ids[0] == best(swarm.ids)
    assert set(peers[0].group.peer_ids) == set(swarm.ids)
    last_start_s = max(peer.started_at_s for peer in peers)
    # JOIN and GROUP, each at most twice the latency.
    assert max(peer.ended_at_s for peer in peers) <= last_start_s + 4 * LATENCY_S + 1e-9


@given(seeds, st.integers(2, 12), st.data())
@settings(max_examples=40)
def test_auxiliary_peers_join_and_do_not_vote(seed: int, count: int, data: st.DataObject) -> None:
    aux_count = data.draw(st.integers(1, count - 1))
    swarm = Swarm(seed, count, aux_count=aux_count)
    swarm.seek_all(spread_s=1.0)
    swarm.run()
    check_outcomes(swarm)
    assert len({peer.group.group_id for peer in swarm.peers.values()}) == 1
    group = next(iter(swarm.peers.values())).group
    assert group.leader == best(swarm.ids)
    assert set(group.voters) == set(swarm.ids[aux_count:])
    assert set(group.aggregators) == set(swarm.ids)


def test_auxiliary_peers_alone_are_no_group() -> None:
    swarm = Swarm(1, 3, aux_count=3)
    swarm.seek_all()
    swarm.run()
    check_outcomes(swarm)
    reasons = [peer.failure.reason for peer in swarm.peers.values()]
    assert any("nobody came that contributes" in reason for reason in reasons)


@pytest.mark.slow
@given(seeds, st.integers(2, 12), st.data())
@settings(max_examples=60)
def test_clients_join_and_never_lead(seed: int, count: int, data: st.DataObject) -> None:
    client_count = data.draw(st.integers(1, count - 1))
    swarm = Swarm(seed, count, client_count=client_count)
    swarm.seek_all(spread_s=1.0)
    swarm.run()
    check_outcomes(swarm)
    groups = {peer.group.group_id for peer in swarm.peers.values()}
    assert len(groups) == 1
    group = next(iter(swarm.peers.values())).group
    assert set(group.peer_ids) == set(swarm.ids)
    assert set(group.aggregators) == set(swarm.ids[: count - client_count])
    assert group.leader in group.aggregators


@given(seeds, st.integers(2, 8))
@settings(max_examples=20)
def test_clients_alone_are_told_so(seed: int, count: int) -> None:
    swarm = Swarm(seed, count, client_count=count)
    swarm.seek_all(spread_s=1.0)
    swarm.run()
    for peer in swarm.peers.values():
        assert "nobody that can be dialed" in peer.failure.reason
        assert peer.ended_at_s <= peer.started_at_s + swarm.config.join_window_s + 1.0


@pytest.mark.slow
@given(seeds, st.integers(2, 16), st.data())
@settings(max_examples=80)
def test_survivors_of_crashes_are_in_one_group(seed: int, count: int, data: st.DataObject) -> None:
    swarm = Swarm(seed, count)
    swarm.seek_all(spread_s=1.0)
    dead = data.draw(st.lists(st.sampled_from(swarm.ids), max_size=count - 1, unique=True))
    for peer_id in dead:
        # Before anything else can have closed: the last one starts, or the first are still alone.
        swarm.crash(peer_id, data.draw(st.floats(0.0, 0.2)))
    swarm.run()
    check_outcomes(swarm)
    survivors = alive(swarm)
    assert len({peer.group.group_id for peer in survivors}) == 1
    assert {peer.peer_id for peer in survivors} <= set(survivors[0].group.peer_ids)


@pytest.mark.slow
@given(seeds, st.integers(2, 12), st.floats(1.6, 20.0))
@settings(max_examples=60)
def test_a_frozen_leader_is_passed_over(seed: int, count: int, duration_s: float) -> None:
    swarm = Swarm(seed, count)
    leader = best(swarm.ids)
    others = [peer for peer in swarm.ids if peer != leader]
    for peer_id in swarm.ids:
        swarm.seek(peer_id, expected=swarm.ids)
    swarm.freeze(leader, 0.0, duration_s)
    swarm.run()
    check_outcomes(swarm)
    assert {swarm.peers[peer].ended_at_s for peer in swarm.ids} != {math.inf}
    if count > 2 and duration_s > 8.0:
        groups = {swarm.peers[peer].group.group_id for peer in others}
        assert len(groups) == 1
        # Silence, the window of the first round, and some messages.
        for peer in others:
            assert swarm.peers[peer].ended_at_s <= 1.5 + 5.0 + 1.0


@given(seeds, st.integers(3, 12), st.floats(1.6, 10.0))
@settings(max_examples=30)
def test_who_is_frozen_when_its_leader_closes_the_group_is_in_it(
    seed: int, count: int, duration_s: float
) -> None:
    """It wakes to a leader that was silent for too long, but the group has come meanwhile."""
    swarm = Swarm(seed, count)
    leader = best(swarm.ids)
    frozen, late, *_ = [peer for peer in swarm.ids if peer != leader]
    for peer_id in swarm.ids:
        swarm.seek(peer_id, at_s=1.0 if peer_id == late else 0.0, expected=swarm.ids)
    swarm.freeze(frozen, 0.9, duration_s)
    swarm.run()
    assert {peer.group.group_id for peer in swarm.peers.values()} == {
        swarm.peers[leader].group.group_id
    }
    assert set(swarm.peers[leader].group.peer_ids) == set(swarm.ids)


def messy_swarm(seed: int, *, grid: bool = False) -> tuple[Swarm, float]:
    """Peers with different views, rounds and manners, some of them struck; and their deadline."""
    rng = random.Random(seed)
    count = rng.randint(2, 32 if seed % 10 == 0 else 10)
    config = MatchmakingConfig(group_size_max=rng.choice((3, 64)), grid=grid)
    swarm = Swarm(seed, count, client_count=rng.choice((0, 0, count // 2)), config=config)
    deadline_s = rng.choice((3.0, 10.0, 40.0))
    until_s = rng.choice((0.5, 8.0))
    expected = rng.choice((("all",), ("all", "some"), ("strangers",), ("all", "some", "strangers")))
    rounds = rng.choice(((ROUND,), (ROUND, ROUND, ROUND, RoundId(8))))
    for peer_id in swarm.ids:
        kind = rng.choice(expected)
        seen = swarm.ids if kind == "all" else rng.sample(swarm.ids, rng.randint(0, count))
        if kind == "strangers":
            swarm.candidates(rng.uniform(0.0, until_s), {peer_id: seen})
        swarm.seek(
            peer_id,
            at_s=rng.uniform(0.0, until_s),
            expected=None if kind == "strangers" else seen,
            lost=rng.sample(swarm.ids, rng.choice((0, 0, 0, 1, 2))),
            round_id=rng.choice(rounds),
            follow=rng.random() < 0.3,
            deadline_s=deadline_s,
        )
    for peer_id in rng.sample(swarm.ids, rng.randint(0, min(3, count))):
        swarm.crash(peer_id, rng.uniform(0.0, until_s))
    for peer_id in rng.sample(swarm.ids, rng.randint(0, min(3, count))):
        swarm.freeze(peer_id, rng.uniform(0.0, until_s), rng.uniform(0.0, 10.0))
    for _ in range(rng.randint(0, 4)):
        a, b = rng.sample(swarm.ids, 2)
        from_s = rng.uniform(0.0, until_s)
        swarm.cut(a, b, from_s, from_s + rng.uniform(0.0, 30.0))
    return swarm, deadline_s


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_everyone_ends_with_a_group_or_a_reason(seed: int) -> None:
    swarm, deadline_s = messy_swarm(seed)
    swarm.run()
    check_messy(swarm, deadline_s)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_whatever_happens_in_a_grid_groups_are_of_one_bucket(seed: int) -> None:
    swarm, deadline_s = messy_swarm(seed, grid=True)
    swarm.run()
    check_messy(swarm, deadline_s)
    for peer in alive(swarm):
        if isinstance(peer.outcomes[0], Found):
            assert len({join.bucket for join in peer.group.members}) == 1


def check_messy(swarm: Swarm, deadline_s: float) -> None:
    """Everyone alive ends in time, with a group or a reason."""
    check_outcomes(swarm)
    for peer in alive(swarm):
        # A frozen one ends when it is thawed.
        late_s = max(peer.started_at_s + deadline_s, peer.frozen_until_s)
        assert peer.ended_at_s <= late_s + 1e-9
        if isinstance(peer.outcomes[0], GaveUp) and peer.frozen_until_s < peer.started_at_s:
            assert "no group could be closed" not in peer.outcomes[0].reason
